"""What can be a step, and what code inside one may ask. Knows no agent library."""
