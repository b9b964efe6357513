"""Update rules and learning-rate schedules: one file for each rule, chosen by the registry.

A rule sees gradients and parameters with their roles. The step that applies it belongs to `halcyon.training`.
"""

from halcyon.optim.registry import build_optimizer
from halcyon.optim.schedules import learning_rate

__all__ = ["build_optimizer", "learning_rate"]
