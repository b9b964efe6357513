"""Floating-point operations of training: the numerator of model FLOPs utilisation (MFU)."""

from __future__ import annotations

from halcyon_api.spec.model import ModelSpec


def flops_per_token(spec: ModelSpec, sequence_length: int, vocab_size: int) -> int:
    """Operations, forward and backward, for each token of a training step, as `ModelShape.flops_per_token` counts them.

    Args:
        spec: ``spec.model`` of the run.
        sequence_length: Tokens of a sequence.
        vocab_size: Size of the vocabulary axis of the output head.
    """
    return spec.shape(vocab_size, sequence_length).flops_per_token(sequence_length)
