"""Episodes: which classes and images make a task, as a pure function of (seed, split, index)."""
