"""The effect of an edit of a run's spec. Every field has one class, from one table."""
