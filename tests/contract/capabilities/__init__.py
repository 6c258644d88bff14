"""A table of what pydantic-ai offers. Each row is an agent whose run fails at every point, and what becomes of it."""
