"""The forms of a decoder's layers, and the names of the stacks that hold the layers of one form.

The names are fields of `halcyon.models.decoder.Decoder` and so parts of the paths of parameters, in checkpoints and in
the declarations of files.
"""

from collections.abc import Sequence
from typing import NamedTuple


class LayerKind(NamedTuple):
    """The form of a layer: layers of one form have parameters of the same shapes."""

    recurrent: bool
    """Whether it has a gated delta net in the place of attention."""
    with_experts: bool
    """Whether it has experts in the place of the MLP."""


_PLAIN = {LayerKind(False, False): "blocks"}
_EXPERTS = {LayerKind(False, False): "dense_blocks", LayerKind(False, True): "blocks"}
_RECURRENT = {
    LayerKind(True, False): "linear_blocks",
    LayerKind(True, True): "linear_expert_blocks",
    LayerKind(False, False): "full_blocks",
    LayerKind(False, True): "full_expert_blocks",
}
STACKS = (*_EXPERTS.values(), *_RECURRENT.values())
"""The names of all stacks."""


def stack_names(*, recurrent: bool, with_experts: bool) -> dict[LayerKind, str]:
    """The stack of each form that the layers of a decoder may have, in order: one in most decoders.

    Args:
        recurrent: Whether layers may have gated delta nets.
        with_experts: Whether layers may have experts.
    """
    return _RECURRENT if recurrent else _EXPERTS if with_experts else _PLAIN


def layer_kinds(layers: int, recurrent: Sequence[bool], with_experts: Sequence[bool]) -> tuple[LayerKind, ...]:
    """The form of each layer, from two flags of each. An empty sequence: no layer has that."""
    without = (False,) * layers
    return tuple(LayerKind(*layer) for layer in zip(recurrent or without, with_experts or without, strict=True))
