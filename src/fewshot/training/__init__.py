"""Training: the loop that trains any learner, model selection, resumable state, and the devices it runs on."""
