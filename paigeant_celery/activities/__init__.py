"""What can be a step, and what code inside a step may ask for. Knows no agent library."""
