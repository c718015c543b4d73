"""Honest figures: metrics of retrieval, pure NumPy."""
