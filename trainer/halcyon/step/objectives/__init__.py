"""Objectives, one file each, and the registry that builds the objective of a run from its spec.

An objective declares the arrays of its batches and returns weighted sums. Models and their log-probabilities belong to
`halcyon.models`, the use of the sums to `halcyon.step.step`.
"""

from halcyon.step.objectives.objective import ROW_SEEDS, Batch, Objective, Sums
from halcyon.step.objectives.registry import build_objective

__all__ = ["ROW_SEEDS", "Batch", "Objective", "Sums", "build_objective"]
