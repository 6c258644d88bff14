"""An example project."""
