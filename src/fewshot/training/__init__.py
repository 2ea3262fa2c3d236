"""Training: the loop that trains any learner, model selection, resumable state, and devices."""
