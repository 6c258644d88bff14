"""Faults, driven by a seed, on real workers and a real server, and what must hold whatever they hit."""
