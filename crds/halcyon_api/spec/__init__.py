"""The sections of ``TrainingRun.spec``, one module for each."""
