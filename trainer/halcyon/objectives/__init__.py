"""What a training minimises: one file for each objective, and the registry that builds it from a run's spec.

An objective declares the arrays of its batches and gives weighted sums. How a model or its log-probabilities are computed belongs to
`halcyon.models`, what becomes of the sums to `halcyon.training.step`.
"""

from halcyon.objectives.objective import Batch, Objective, Sums
from halcyon.objectives.registry import build_objective

__all__ = ["Batch", "Objective", "Sums", "build_objective"]
