"""Hostile inputs and Halcyon's answers, tested row by row."""
