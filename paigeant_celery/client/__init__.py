"""Workflows from outside: dispatching them, following them, and their dead letters."""
