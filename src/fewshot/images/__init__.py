"""Images: stored pixels -> augmented, normalised network input, as a pure function of pixels and random draws."""
