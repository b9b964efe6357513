"""Groups of parameters that an update rule treats in the same way, by their roles."""

from __future__ import annotations

from typing import Any

import jax

from halcyon.models import CausalLM
from halcyon.models.parameters import Role, roles

DECAYING = frozenset({Role.MATRIX, Role.HEAD, Role.ROUTER, Role.EXPERT, Role.CONVOLUTION, Role.ADAPTER})
"""The roles of linear maps. Weight decay applies only to them."""


def decays(model: CausalLM) -> Any:
    """`model` with True in the place of each NamedArray that weight decay applies to, else False."""
    return jax.tree.map(lambda role: role in DECAYING, roles(model))
