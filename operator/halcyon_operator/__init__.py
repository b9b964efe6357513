"""Halcyon's operator: turns a TrainingRun into JobSets and keeps it going from its checkpoints."""
