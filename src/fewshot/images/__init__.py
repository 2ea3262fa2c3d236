"""Images: stored pixels -> augmented, normalised network input; a pure function of pixels and draws."""
