"""Agents as steps: the one wing that imports pydantic_ai."""
