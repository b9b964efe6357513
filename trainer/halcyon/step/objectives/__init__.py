"""Objectives, one file each, and the function that builds the objective of a run from its spec.

An objective declares the arrays of its batches and returns weighted sums. Models and their log-probabilities belong to
`halcyon.models`, the use of the sums to `halcyon.step.step`.
"""

from typing import Any

import jax.numpy as jnp

from halcyon.data.layout.beside import Images, Sounds
from halcyon.step.objectives.classify import Classify
from halcyon.step.objectives.contrastive import Contrastive
from halcyon.step.objectives.masked_token import MaskedToken, MaskIds
from halcyon.step.objectives.next_token import NextToken
from halcyon.step.objectives.objective import Objective
from halcyon.step.objectives.policy import Policy
from halcyon.step.objectives.preference import Preference
from halcyon.tokenizer import Tokenizer
from halcyon_api.spec.objective import FinetuneSpec, MaskedTokenSpec, NextTokenSpec, PolicySpec, PreferenceSpec
from halcyon_api.training_run import TrainingRunSpec


def build_objective(spec: TrainingRunSpec, tokenizer: Tokenizer | None = None) -> Objective:
    """The objective of a run.

    Args:
        spec: The run's spec.
        tokenizer: Its tokenizer, for ``objective.maskedToken``. None: the objective has the right shapes, but not the
            ids.

    Raises:
        BadConfiguration: The tokenizer lacks a token that the objective needs.
    """
    precision = spec.trainer.precision
    common: dict[str, Any] = {
        "compute_dtype": jnp.dtype(precision.compute), "products": precision.narrow, "dropout": spec.trainer.dropout
    }  # fmt: skip
    if spec.objective.classify is not None:
        return Classify(**common)
    if (contrastive := spec.objective.contrastive) is not None:
        texts = max((source.format.pair.texts for source in spec.data.sources if source.format.pair), default=2)
        return Contrastive(contrastive, texts, **common)
    match spec.objective.value:
        case NextTokenSpec() | FinetuneSpec() as objective:
            by_conversation = isinstance(objective, FinetuneSpec) and objective.weighting == "conversation"
            return NextToken(
                segments=not spec.data.attend_across_documents,
                z_loss=objective.z_loss if isinstance(objective, NextTokenSpec) else 0.0,
                weights="conversation_weights" if by_conversation else "weights",
                multi_token=spec.multi_token_weight,
                beside=_beside(spec),
                teacher=spec.objective.teacher,
                **common,
            )
        case PreferenceSpec() as preference:
            return Preference(preference, **common)
        case MaskedTokenSpec(share=share):
            ids = MaskIds(0, (), 1) if tokenizer is None else MaskIds.of(tokenizer)
            return MaskedToken(share, ids, **common)
        case PolicySpec() as policy:
            return Policy(policy, spec.objective.teacher, **common)
        case other:
            raise TypeError(f"no objective for a spec of type {type(other).__name__}")


def _beside(spec: TrainingRunSpec) -> tuple[tuple[str, jnp.dtype], ...]:
    """See `NextToken.beside`."""
    readers = [] if spec.model.sound is None else [Sounds(*spec.model.sound)]
    if spec.model.sight is not None and any(source.format.chat is not None for source in spec.data.sources):
        readers = [Images(spec.model.sight)]
    return tuple((reader.name, reader.dtype) for reader in readers)
