"""The values that runs take from a ``TrainingRunDefaults`` for fields that their own document does not set."""
