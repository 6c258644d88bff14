"""One hop, from its delivery to the next message."""
