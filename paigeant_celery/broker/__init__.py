"""How hops travel."""
