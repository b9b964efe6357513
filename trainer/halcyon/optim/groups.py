"""Groups of parameters that an update rule treats in the same way, by their roles."""

from __future__ import annotations

from typing import Any

from halcyon.models import CausalLM
from halcyon.models.parameters import parameters
from halcyon.optim.rule import decaying


def decays(model: CausalLM) -> Any:
    """`model` with True in the place of each NamedArray that weight decay applies to, else False."""
    return decaying(parameters(model))
