"""Few-shot learning from raw archives to a results table beside the published numbers."""

__version__ = "0.1.0"
