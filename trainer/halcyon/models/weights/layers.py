"""The tensors that decoders share, with and without experts: the tables around the layers, and the parts of layers of one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from halcyon.models.axes import EMBED, EXPERTS, HEAD_SIZE, KV_HEADS, MLP, Q_HEADS_PER_GROUP, ROUTES, VOCAB
from halcyon.models.weights.tensors import Join, Tensor, piece, tensor
from halcyon_api.spec.families.sizes import DecoderSizes

QUERIES = (KV_HEADS, Q_HEADS_PER_GROUP, HEAD_SIZE)
KEYS = (KV_HEADS, HEAD_SIZE)
LAYER = "model.layers.{layers}"

SEPARATE = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
"""Names of the maps of an expert in most families."""


def tables(*, tied: bool) -> tuple[Tensor, ...]:
    """The embedding, the last norm, and the head if it is not the embedding."""
    head = () if tied else (tensor("lm_head.weight", "untied_head.weight", VOCAB, EMBED),)
    return (tensor("model.embed_tokens.weight", "embedding.weight", VOCAB, EMBED), tensor("model.norm.weight", "norm.weight", EMBED), *head)


def unused(*, tied: bool) -> tuple[str, ...]:
    """Regular expressions of tensors that files may have beside those of a decoder: frequencies, and the head if it is the embedding."""
    return (r".*\.rotary_emb\.inv_freq", *((r"lm_head\.weight",) if tied else ()))


class Layers:
    """The layers of one form: their place in the model, and their numbers in the names of the file.

    Args:
        block: Path of their blocks in the model.
        numbers: The number of each layer.
    """

    def __init__(self, block: str, numbers: Sequence[int]) -> None:
        self.block, self.numbers = block, {"layers": tuple(numbers)}

    def tensor(self, name: str, path: str, *dimensions: str | tuple[str, ...]) -> Tensor:
        """A tensor of each layer; both names are below the layer."""
        return tensor(f"{LAYER}.{name}", f"{self.block}.{path}", *dimensions, numbers=self.numbers)

    def linear(
        self, name: str, path: str, outputs: str | tuple[str, ...], inputs: str | tuple[str, ...], bias: bool = False
    ) -> list[Tensor]:
        """The tensors of a linear map."""
        weight = self.tensor(f"{name}.weight", f"{path}.weight", outputs, inputs)
        return [weight, self.tensor(f"{name}.bias", f"{path}.bias", outputs)] if bias else [weight]

    def mlp(self, name: str, path: str) -> list[Tensor]:
        """The tensors of a gated MLP."""
        maps = (("gate", MLP, EMBED), ("up", MLP, EMBED), ("down", EMBED, MLP))
        return [self.tensor(f"{name}.{part}_proj.weight", f"{path}.{part}.weight", *axes) for part, *axes in maps]

    def experts(self, router: str, experts: str, names: Mapping[str, str]) -> list[Tensor]:
        """The tensors of a router and of experts with a tensor each.

        Args:
            router: Name of the router.
            experts: Name of the experts.
            names: The names of ``gate``, ``up`` and ``down`` in an expert.
        """
        axes = {"gate": (MLP, EMBED), "up": (MLP, EMBED), "down": (EMBED, MLP)}
        of_experts = [self.tensor(f"{experts}.{{experts}}.{names[part]}.weight", f"mlp.experts.{part}", *axes[part]) for part in axes]
        return [self.tensor(f"{router}.weight", "mlp.router.weight", ROUTES, EMBED), *of_experts]

    def fused_experts(self, router: str, experts: str) -> list[Tensor]:
        """The tensors of a router and of experts with one tensor for all gates and ups, and one for all downs.

        Args:
            router: Name of the router.
            experts: Name of the experts.
        """
        first = tuple(piece(f"{self.block}.mlp.experts.{part}", EXPERTS, MLP, EMBED) for part in ("gate", "up"))
        return [
            self.tensor(f"{router}.weight", "mlp.router.weight", ROUTES, EMBED),
            Tensor(f"{LAYER}.{experts}.gate_up_proj", first, Join(1), self.numbers),
            self.tensor(f"{experts}.down_proj", "mlp.experts.down", EXPERTS, EMBED, MLP),
        ]

    def self_attention(self, sizes: DecoderSizes) -> list[Tensor]:
        """The tensors of the self-attention that these sizes describe."""
        found = [
            *self.linear("self_attn.q_proj", "attention.query", QUERIES, EMBED, sizes.query_bias),
            *self.linear("self_attn.k_proj", "attention.key", KEYS, EMBED, sizes.query_bias),
            *self.linear("self_attn.v_proj", "attention.value", KEYS, EMBED, sizes.query_bias),
            *self.linear("self_attn.o_proj", "attention.output", EMBED, QUERIES, sizes.output_bias),
        ]
        if sizes.query_norm is not None:
            for name, path, axes in (("q_norm", "query_norm", QUERIES), ("k_norm", "key_norm", KEYS)):
                features = axes if sizes.query_norm == "projection" else HEAD_SIZE
                found.append(self.tensor(f"self_attn.{name}.weight", f"attention.{path}.weight", features))
        if sizes.sinks:
            found.append(self.tensor("self_attn.sinks", "attention.sinks", QUERIES[:-1]))
        return found
