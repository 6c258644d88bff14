"""What a workflow is and how it moves: plain values and functions, without I/O, clock, randomness or threads."""
