"""Update rules, one file each, and learning rate schedules. The registry builds the rule of a run.

A rule gets gradients, parameters and the roles of the parameters. The step that applies it belongs to `halcyon.training`.
"""

from halcyon.optim.registry import build_optimizer
from halcyon.optim.schedules import learning_rate

__all__ = ["build_optimizer", "learning_rate"]
