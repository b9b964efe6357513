"""What becomes of an edit of a run's spec: every field has one class, and everybody goes by the same table."""
