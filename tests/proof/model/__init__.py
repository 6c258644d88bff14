"""An abstract model of how hops are claimed, run and handed on, small enough to search all of its states."""
