"""Floating-point operations of training: the numerator of model FLOPs utilisation (MFU)."""

from __future__ import annotations

import haliax as hax
import jax

from halcyon.models.axes import POSITION, VOCAB
from halcyon.models.registry import build_model
from halcyon_api.spec.model import ModelSpec


def flops_per_token(spec: ModelSpec, sequence_length: int, vocab_size: int, *, frozen: bool = False) -> int:
    """Operations, forward and backward, for each token of a training step, as `ModelShape.flops_per_token` counts them.

    A custom model counts them itself (`CausalLM.flops_per_token`), from its shapes.

    Args:
        spec: ``spec.model`` of the run.
        sequence_length: Tokens of a sequence.
        vocab_size: Size of the vocabulary axis of the output head.
        frozen: Whether the weights are frozen beside an adapter. A custom model does not count that.
    """
    if spec.custom is not None:
        vocab, positions = hax.Axis(VOCAB, vocab_size), hax.Axis(POSITION, sequence_length)
        return jax.eval_shape(lambda: build_model(spec, vocab, positions, key=jax.random.key(0))).flops_per_token(
            sequence_length
        )
    return spec.shape(vocab_size, sequence_length).flops_per_token(sequence_length, frozen=frozen)
