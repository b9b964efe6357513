"""What runs take from a ``TrainingRunDefaults`` where their own document is silent: which fields, how, and when."""
