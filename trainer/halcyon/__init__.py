"""Halcyon's trainer: sharded training of language models that can be killed at any moment and goes on exactly."""
