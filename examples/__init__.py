"""Runnable examples; each folder is one, and begins with its README."""
