"""Which parameters an update rule treats alike, by their roles."""

from __future__ import annotations

from typing import Any

import jax

from halcyon.models import CausalLM
from halcyon.models.parameters import Role, roles

DECAYING = frozenset({Role.MATRIX, Role.HEAD, Role.ROUTER, Role.EXPERT, Role.ADAPTER})
"""The linear maps. Weight decay touches nothing else."""


def decays(model: CausalLM) -> Any:
    """Which parameters decay: `model` with a bool in the place of each NamedArray."""
    return jax.tree.map(lambda role: role in DECAYING, roles(model))
