"""The interface of an objective.

Losses are weighted sums that are divided once, by the weight of the whole batch. So the loss is that of the full batch,
whatever the microbatches, the packing and the padding; a mean of means would differ.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from haliax import NamedArray

from halcyon.data.examples import Batch
from halcyon.models.adapters import has_adapter, with_dropout, without_adapter
from halcyon.models.axes import BATCH, BESIDE, POSITION
from halcyon.models.dropout import with_sites
from halcyon.models.model import CausalLM, Outputs, with_products
from halcyon_api.spec.narrow_products import NarrowProducts
from halcyon_api.spec.trainer import DropoutSpec

ROW_SEEDS = "row_seeds"
"""An array of a batch beside its fields, in a step with dropout or masks: a random number for each row, uint32
[batch]."""


class Sums(NamedTuple):
    """Sums over a batch, or a part of one; float32, scalars unless stated otherwise."""

    loss: jax.Array
    """The weighted sum of losses, to be minimised."""
    weight: jax.Array
    """The sum of the weights."""
    metrics: dict[str, jax.Array] = {}  # noqa: RUF012 - a NamedTuple's default, never changed
    """Further weighted sums by name, scalars or arrays [layer, expert].

    Each is divided by `weight` and reported under its name.
    """
    penalty: jax.Array | None = None
    """A weighted sum that is minimised together with the losses but is no part of the reported loss, such as that of
    routers.
    """


class Objective(Protocol):
    """A loss that a training minimises."""

    @property
    def fields(self) -> Mapping[str, np.dtype]:
        """Names and types of the arrays of a batch. The names are those of `halcyon.data.examples.Examples`."""
        ...

    @property
    def per_token(self) -> bool:
        """Whether the loss is in nats per token. Only then can an evaluation give bits per byte."""
        ...

    def prepared(self, model: Any, batch: Batch) -> Batch:
        """The batch with what its microbatches need of each other; without a gradient.

        Args:
            model: The model that is trained.
            batch: Arrays [microbatch, batch, position].
        """
        ...

    def __call__(self, model: Any, batch: Batch, frozen: Any, key: jax.Array | None) -> Sums:
        """The sums of one microbatch, differentiable with respect to the model.

        Args:
            model: The model that is trained.
            batch: Arrays [batch, position].
            frozen: The reference model, which is not trained; None if the run has none.
            key: Random key of this microbatch, the same on all devices; None: without randomness, as in an evaluation.
        """
        ...


_FLOATS = ("weights", "advantages", "sampled_log_probs")


def typed(*names: str) -> dict[str, np.dtype]:
    """The types of arrays of a batch: weights and numbers of sampled tokens are float32, all others int32."""
    return {name: np.dtype(np.float32 if name in _FLOATS else np.int32) for name in names}


def named(batch: Batch, fields: Iterable[str]) -> dict[str, Any]:
    """Arrays [batch, position] of a batch, and what rows have beside tokens, as named arrays."""
    return {name: hax.named(batch[name], BESIDE.get(name, (BATCH, POSITION)[: batch[name].ndim])) for name in fields}


@dataclass(frozen=True, kw_only=True)
class Common:
    """What all objectives know of a run.

    Attributes:
        compute_dtype: Type of activations and matrix products. The loss itself is float32.
        products: Types of the factors of matrix products. None: `compute_dtype`.
        dropout: ``spec.trainer.dropout``.
    """

    compute_dtype: jnp.dtype
    products: NarrowProducts | None = None
    dropout: DropoutSpec | None = None

    def prepared(self, model: Any, batch: Batch) -> Batch:
        """See `Objective`: they need nothing."""
        del model
        return batch

    def dropping(self, model: CausalLM, batch: Batch) -> CausalLM:
        """The model with `products`, and in a step whose batch has the seeds with dropout in its adapter and at its
        sites.
        """
        model = with_products(model, self.products)
        if ROW_SEEDS not in batch:
            return model
        model = with_dropout(model, batch[ROW_SEEDS])
        return model if self.dropout is None else with_sites(model, self.dropout, batch[ROW_SEEDS])


def reference_model(model: CausalLM, frozen: CausalLM | None, what: str) -> CausalLM:
    """The model to compare with, without a gradient. A model with an adapter is its own reference.

    Args:
        model: The model that is trained.
        frozen: The reference model of the run, if it has one.
        what: The objective, for the message.

    Raises:
        TypeError: There is none.
    """
    if frozen is None and not has_adapter(model):
        raise TypeError(f"{what} needs a reference model, or a model with an adapter")
    return jax.lax.stop_gradient(without_adapter(model) if frozen is None else frozen)


def with_routers(sums: Sums, outputs: Outputs, of_sequence: Any) -> Sums:
    """Sums with the metrics and the penalty of a model's routers. Those of a model without experts stay as they are.

    Args:
        sums: The sums of the losses.
        outputs: The outputs of the model.
        of_sequence: The weight of each sequence: float32, the axes of the tokens without position.
    """

    def weighted(numbers: NamedArray) -> jax.Array:
        """The sum over the sequences of a number of each sequence times its weight."""
        sequences = tuple(axis.name for axis in of_sequence.axes)
        return hax.sum(numbers * of_sequence, sequences).array

    metrics = {name: weighted(numbers) for name, numbers in outputs.aux.items()}
    return sums._replace(
        metrics={**sums.metrics, **metrics}, penalty=None if outputs.penalty is None else weighted(outputs.penalty)
    )
