"""Hostile inputs and Halcyon's answers: one table, tested row by row and shown in docs/hostile-inputs.md."""
