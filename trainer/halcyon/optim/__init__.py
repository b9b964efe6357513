"""Update rules and learning-rate schedules."""

from halcyon.optim.adamw import build_optimizer
from halcyon.optim.schedules import learning_rate

__all__ = ["build_optimizer", "learning_rate"]
