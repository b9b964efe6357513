"""Halcyon's operator: creates JobSets for a TrainingRun and restarts the run from its checkpoints."""
