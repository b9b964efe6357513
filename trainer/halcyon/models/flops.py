"""The operations of training by parameter, and of the parts that no program states.

The FLOPs of a parameter are six for each weight of a matrix product that a token passes through (Chowdhery et al. 2022,
PaLM, appendix B): of the experts, those that it goes to. What the weights do not explain, the scores and values of
attention and the recurrent states, is one number for the whole model.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
from haliax import NamedArray

from halcyon.models.axes import EXPERTS, VOCAB, is_named
from halcyon.models.parameters import PRODUCTS, Parameter, Role, dotted, parameters
from halcyon.models.registry import flops_per_token
from halcyon_api.mesh import model_shape
from halcyon_api.training_run import TrainingRunSpec

_FLOPS_PER_WEIGHT = 6


@dataclass(frozen=True)
class ModelFlops:
    """Operations of training for a token, forward and backward, as the metric ``mfu`` counts them.

    Attributes:
        per_token: All of them.
        attention: The part that no weight explains: scores and values of attention over the whole sequence, recurrent
            states.
        experts: The part that is products of experts.
        head: The part that is the output head.
        hidden: The part of `attention` that a causal mask hides.
        frozen: The part that is gradients of frozen weights.
    """

    per_token: int
    attention: int
    experts: int
    head: int
    hidden: int
    frozen: int

    @property
    def visible(self) -> int:
        """Attention without what a causal mask hides."""
        return self.attention - self.hidden

    @property
    def products(self) -> int:
        """Products with weights that every step computes."""
        return self.per_token - self.attention - self.frozen


def model_flops(
    spec: TrainingRunSpec, model: Any, vocabulary: int, *, length: int | None = None, trained: Any = None
) -> ModelFlops:
    """The operations of a run's model for a token.

    Args:
        spec: The run's spec.
        model: The model, or its shapes.
        vocabulary: Tokens of the tokenizer.
        length: Positions of a sequence. None: of the longest one.
        trained: See `halcyon.step.program.Program`.
    """
    length = length or spec.trainer.longest_sequence
    whole = flops_per_token(spec.model, length, vocabulary)
    rows = [(parameter.role, flops) for _, _, parameter, flops in weight_flops(spec, model, vocabulary)]
    flags: list[bool] = [True] * len(rows) if trained is None else jax.tree.leaves(trained)
    attention = max(0, whole - sum(flops for role, flops in rows if role is not Role.ADAPTER))
    hidden = attention // 2
    if spec.model.family != "custom":
        shape = spec.model.shape(vocabulary, length)
        window = min(shape.window, length)
        hidden = (
            0
            if spec.model.encoder
            else 3 * (shape.attention_width * length + shape.windowed_width * window * window // length)
        )
    return ModelFlops(
        whole,
        attention,
        sum(flops for role, flops in rows if role is Role.EXPERT),
        sum(flops for role, flops in rows if role in (Role.HEAD, Role.EMBEDDING)),
        hidden,
        sum(flops for (_, flops), flag in zip(rows, flags, strict=True) if not flag) // 3,
    )


def weight_flops(
    spec: TrainingRunSpec, model: Any, vocabulary: int
) -> Iterator[tuple[str, NamedArray, Parameter, int]]:
    """The parameters of a model, with their dotted paths, and their operations for a token.

    Args:
        spec: The run's spec.
        model: The model, or its shapes.
        vocabulary: Tokens of the tokenizer; the padding of the model's vocabulary has no FLOPs.
    """
    leaves = [(dotted(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(model, is_leaf=is_named)]
    known: list[Parameter] = jax.tree.leaves(parameters(model), is_leaf=lambda leaf: isinstance(leaf, Parameter))
    idle = 0 if spec.model.family == "custom" else model_shape(spec).idle_parameters
    experts = sum(math.prod(leaf.array.shape) for _, leaf in leaves if EXPERTS in (axis.name for axis in leaf.axes))
    active = 1 - idle / experts if experts else 1.0
    further = 1 + (getattr(spec.model, "num_nextn_predict_layers", None) or 0)  # each has the output head's products
    tied = all(parameter.role is not Role.HEAD for parameter in known)
    for (path, leaf), parameter in zip(leaves, known, strict=True):
        # With tied embeddings the table is the output head too. A table of positions has no vocabulary.
        multiplies = parameter.role in PRODUCTS or (
            tied and parameter.role is Role.EMBEDDING and {*leaf.axis_names} == {VOCAB, model.embed.name}
        )
        axes = (*parameter.stacked, *parameter.inputs, *parameter.outputs)
        weights = math.prod(vocabulary if axis.name == VOCAB else axis.size for axis in axes)
        share = active if parameter.role is Role.EXPERT else further if VOCAB in leaf.axis_names else 1
        yield path, leaf, parameter, round(_FLOPS_PER_WEIGHT * weights * share) if multiplies else 0
