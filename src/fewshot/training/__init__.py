"""Training: the loop that trains any learner, model selection, resumable state, and the devices it runs on."""

# Modules that cannot change a number (workflow/identity.py): messages, refusals, curves to look at.
NEUTRAL = ("memory", "remaining_time", "tensorboard")
