"""Mistakes of users and Halcyon's answers: one table, tested row by row and shown in docs/mistakes.md."""
