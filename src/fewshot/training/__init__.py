"""Training: the loop that trains any learner, model selection, resumable state, and the devices it runs on."""

# Modules that cannot change a number (workflow/identity.py): messages and refusals.
NEUTRAL = ("memory", "remaining_time")
