"""Complaints of customers, answered by agents, with a person in between."""
