"""What users get wrong, and what they are told: one table, tried row by row and shown in docs/mistakes.md."""
