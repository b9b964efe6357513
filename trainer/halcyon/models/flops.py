"""Floating-point operations of training, counted from the spec: the numerator of model FLOPs utilisation (MFU).

The count follows Chowdhery et al. 2022 (PaLM, appendix B): two operations for each weight of a matrix product and token, attention over
the whole square of positions (causality not deducted), twice as much backward as forward, and nothing for what rematerialisation
repeats. Embedding look-ups, norms, softmax and the optimizer do not count.
"""

from __future__ import annotations

from halcyon_api.spec.model import Gpt2Spec, LlamaSpec, ModelSpec


def flops_per_token(spec: ModelSpec, sequence_length: int, vocab_size: int) -> int:
    """Operations, forward and backward, for each token of a training step.

    Args:
        spec: ``spec.model`` of the run.
        sequence_length: Tokens of a sequence.
        vocab_size: Rows of the output head.
    """
    model = spec.value
    if not isinstance(model, LlamaSpec | Gpt2Spec):
        raise TypeError(f"no FLOPs count for a spec of type {type(model).__name__}")
    weights = model.layers * _block_weights(model) + model.hidden_size * vocab_size
    attention = model.layers * 2 * model.hidden_size * sequence_length  # scores, and values weighted by them
    return 3 * 2 * (weights + attention)


def _block_weights(model: LlamaSpec | Gpt2Spec) -> int:
    """Weights of one block that take part in matrix products."""
    hidden = model.hidden_size
    if isinstance(model, LlamaSpec):
        key_value = hidden // model.heads * model.key_value_heads
        return 2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * model.intermediate_size
    return 4 * hidden * hidden + 2 * hidden * model.mlp_size
