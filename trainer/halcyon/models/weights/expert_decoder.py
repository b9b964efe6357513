"""What the families with experts share: the tensors of their layers with an MLP and of those with experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from halcyon.models.axes import EMBED
from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.decoder import BEFORE
from halcyon.models.weights.layers import Layers, tables, unused
from halcyon.models.weights.tensors import Tensor, Tensors
from halcyon_api.spec.families.experts import ExpertsSection


def expert_decoder_tensors(
    spec: ExpertsSection,
    mixture: Callable[[Layers], Sequence[Tensor]],
    *,
    attention: Callable[[Layers], Sequence[Tensor]] | None = None,
    ignored_layers: tuple[tuple[str, str], ...] = (),
) -> Tensors:
    """The tensors of an `halcyon.models.expert_decoder.ExpertDecoder`.

    Args:
        spec: Its section.
        mixture: The tensors of the router, the experts and the shared MLP.
        attention: The tensors of attention, for layers of either form. None: those of its sizes.
        ignored_layers: See `Tensors`.
    """
    tied = spec.tie_word_embeddings
    found = [*tables(tied=tied)]
    for with_experts, block in ((False, "dense_blocks.stacked"), (True, "blocks.stacked")):
        numbers = [number for number, mixed in enumerate(spec.experts().with_experts) if mixed == with_experts]
        if numbers:
            layers = Layers(block, numbers)
            of_attention = layers.self_attention(spec.sizes()) if attention is None else attention(layers)
            found += block_tensors(layers, of_attention, mixture if with_experts else None)
    return Tensors(tuple(found), ignored=unused(tied=tied), ignored_layers=ignored_layers)


def block_tensors(layers: Layers, attention: Sequence[Tensor], mixture: Callable[[Layers], Sequence[Tensor]] | None) -> list[Tensor]:
    """The tensors of the `halcyon.models.expert_decoder.ExpertBlock` of layers of one form.

    Args:
        layers: The layers.
        attention: The tensors of their attention.
        mixture: See `expert_decoder_tensors`. None: the layers have an MLP.
    """
    return [
        *(layers.tensor(f"{name}.weight", f"{ours}.weight", EMBED) for name, ours in BEFORE.items()),
        *attention,
        *(layers.mlp("mlp", "mlp") if mixture is None else mixture(layers)),
    ]


def read_losses(config: ConfigReader) -> dict[str, Any]:
    """The factors of the router losses."""
    return {"router_aux_loss_coef": config.number("router_aux_loss_coef", 0.001)}
