"""Builds the objective of a run."""

from __future__ import annotations

import jax.numpy as jnp

from halcyon.objectives.next_token import NextToken
from halcyon.objectives.objective import Objective
from halcyon_api.spec.objective import NextTokenSpec
from halcyon_api.training_run import TrainingRunSpec


def build_objective(spec: TrainingRunSpec) -> Objective:
    """The objective of a run."""
    match spec.objective.value:
        case NextTokenSpec():
            precision = spec.trainer.precision
            return NextToken(
                segments=not spec.data.attend_across_documents,
                compute_dtype=jnp.dtype(precision.compute),
                products=precision.products,
            )
        case other:
            raise TypeError(f"no objective for a spec of type {type(other).__name__}")
