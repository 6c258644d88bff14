"""What a workflow is and how it moves: no I/O, clock, randomness or threads."""
