"""Update rules and schedules. The registry builds the rule of a run.

A rule gets gradients, parameters and the roles of the parameters. The step that applies it belongs to `halcyon.run`.
"""

from halcyon.optim.registry import build_optimizer
from halcyon.optim.schedules import learning_rate, update_arguments

__all__ = ["build_optimizer", "learning_rate", "update_arguments"]
