"""Runnable examples: one per folder, each explained in its README."""
