"""What the families with experts share: the tensors of their layers with an MLP and of those with experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from halcyon.models.axes import EMBED, HEAD_SIZE, KV_HEADS, MLP, Q_HEADS_PER_GROUP, ROUTES, VOCAB
from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.tensors import Tensor, Tensors, tensor
from halcyon_api.spec.families.experts import ExpertsSection
from halcyon_api.spec.families.sizes import DecoderSizes

QUERIES = (KV_HEADS, Q_HEADS_PER_GROUP, HEAD_SIZE)
KEYS = (KV_HEADS, HEAD_SIZE)
LAYER = "model.layers.{layers}"


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


SEPARATE = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
"""Names of the maps of an expert in most families."""


def expert_decoder_tensors(
    spec: ExpertsSection,
    attention: Callable[[Layers], Sequence[Tensor]],
    mixture: Callable[[Layers], Sequence[Tensor]],
    *,
    ignored_layers: tuple[tuple[str, str], ...] = (),
) -> Tensors:
    """The tensors of an `halcyon.models.expert_decoder.ExpertDecoder`.

    Args:
        spec: Its section.
        attention: The tensors of attention, for layers of either form.
        mixture: The tensors of the router, the experts and the shared MLP.
        ignored_layers: See `Tensors`.
    """
    found = [tensor("model.embed_tokens.weight", "embedding.weight", VOCAB, EMBED), tensor("model.norm.weight", "norm.weight", EMBED)]
    if not spec.tie_word_embeddings:
        found.append(tensor("lm_head.weight", "untied_head.weight", VOCAB, EMBED))
    for with_experts, block in ((False, "dense_blocks.stacked"), (True, "blocks.stacked")):
        numbers = [number for number, mixed in enumerate(spec.experts().with_experts) if mixed == with_experts]
        if numbers:
            layers = Layers(block, numbers)
            found.append(layers.tensor("input_layernorm.weight", "attention_norm.weight", EMBED))
            found.append(layers.tensor("post_attention_layernorm.weight", "mlp_norm.weight", EMBED))
            found += attention(layers)
            found += mixture(layers) if with_experts else layers.mlp("mlp", "mlp")
    unused = ("lm_head.weight",) if spec.tie_word_embeddings else ()
    return Tensors(tuple(found), ignored=(r".*\.rotary_emb\.inv_freq", *unused), ignored_layers=ignored_layers)


def self_attention_tensors(sizes: DecoderSizes) -> Callable[[Layers], list[Tensor]]:
    """The tensors of the self-attention that these sizes describe."""

    def of(layers: Layers) -> list[Tensor]:
        found = [
            *layers.linear("self_attn.q_proj", "attention.query", QUERIES, EMBED, sizes.query_bias),
            *layers.linear("self_attn.k_proj", "attention.key", KEYS, EMBED, sizes.query_bias),
            *layers.linear("self_attn.v_proj", "attention.value", KEYS, EMBED, sizes.query_bias),
            *layers.linear("self_attn.o_proj", "attention.output", EMBED, QUERIES, sizes.output_bias),
        ]
        if sizes.query_norm == "head":
            for name, path in (("q_norm", "query_norm"), ("k_norm", "key_norm")):
                found.append(layers.tensor(f"self_attn.{name}.weight", f"attention.{path}.weight", HEAD_SIZE))
        if sizes.sinks:
            found.append(layers.tensor("self_attn.sinks", "attention.sinks", QUERIES[:-1]))
        return found

    return of


def read_losses(config: ConfigReader) -> dict[str, Any]:
    """The factors of the router losses."""
    return {"router_aux_loss_coef": config.number("router_aux_loss_coef", 0.001)}
