"""Training: the loop that trains any learner, its resumable state, its devices; knows no learner by name."""
