"""The gradient of a batch as a weighted sum over its microbatches.

Each group of devices that computes whole rows adds up the gradients of its own rows, and one sum over the groups
follows the last microbatch. An audit (`halcyon.step.audit`) reads what each device has before that sum.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from haliax import NamedArray

from halcyon.models.parameters import joined
from halcyon.models.stack import with_slots
from halcyon.models.statistics import counting
from halcyon.parallel.axes import constrain_here
from halcyon.parallel.partition import by_group, digests_by_device
from halcyon.step.objectives.objective import ROW_SEEDS, Batch, Objective, Sums
from halcyon.step.state import Model

Frozen = tuple[Model, Model | None]
"""The frozen part of the model, and the reference model."""

Varied = tuple[Model, Mapping[str, NamedArray]]
"""What the loss is differentiated by: the trained parameters, and the slots of watched activations
(`halcyon.models.stack`).
"""

_DROPOUT = 2**32 - 2
"""Number of the key of dropout, which no microbatch has."""


@dataclass(frozen=True)
class Gradients:
    """How the gradient of a batch is computed.

    Attributes:
        objective: The objective to minimise.
        seed: Seed of the objective's randomness; each microbatch of each step gets its own key.
        dropout: Give the objective a random number for each row of the batch, as `ROW_SEEDS`, for dropout or masks. Row
            n of a step gets the same number whatever the microbatches and the mesh are.
        gather_once: Keep all parameters, and the sums of their gradients, on each device while the microbatches are
            computed.
    """

    objective: Objective
    seed: int = 0
    dropout: bool = False
    gather_once: bool = False

    def key_of(self, step: jax.Array, number: jax.Array | int) -> jax.Array:
        """The random key of a microbatch of a step, or of what else has a number."""
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), step), number)

    def seeded(self, batch: Batch, step: jax.Array) -> Batch:
        """The batch with the random numbers of its rows, if the objective takes some."""
        if not self.dropout:
            return batch
        rows = jax.tree.leaves(batch)[0].shape[:2]
        return {**batch, ROW_SEEDS: jax.random.bits(self.key_of(step, _DROPOUT), rows, jnp.uint32)}

    def of_microbatch(
        self, varied: Varied, rest: Frozen, batch: Batch, step: jax.Array, number: jax.Array | int
    ) -> tuple[jax.Array, Sums]:
        """What is differentiated, and the sums of a microbatch."""
        (part, slots), (fixed, reference) = varied, rest
        with counting(batch.get("weights", batch.get("conversation_weights"))):
            model = with_slots(joined(part, fixed), slots)
            sums = self.objective(model, batch, reference, self.key_of(step, number))
        return sums.loss if sums.penalty is None else sums.loss + sums.penalty, sums

    def of_batch(self, varied: Varied, rest: Frozen, batch: Batch, step: jax.Array) -> tuple[Sums, Varied]:
        """The sums of a batch, and their gradient, over all microbatches and devices.

        Args:
            varied: What the loss is differentiated by.
            rest: What it is not differentiated by.
            batch: Arrays [microbatches, rows, …].
            step: Steps done.
        """
        batch = self.objective.prepared(joined(varied[0], rest[0]), batch)
        if len(jax.tree.leaves(batch)[0]) == 1:
            return self._of_first(batch, (varied, rest), step)
        return by_group(self._of_group, batch, (varied, rest), step, gathered=self.gather_once)

    def digests(
        self, digest: Callable[[Any], jax.Array], varied: Varied, rest: Frozen, batch: Batch, step: jax.Array
    ) -> jax.Array:
        """The digest of what each device has of the first microbatch before the sum over groups: [*sizes of the mesh
        axes, words].
        """
        return digests_by_device(digest, self._of_first, batch, (varied, rest), step)

    @property
    def _gradient(self) -> Callable[..., tuple[Varied, Sums]]:
        return jax.grad(self.of_microbatch, has_aux=True)

    def _of_first(self, batch: Batch, parts: tuple[Varied, Frozen], step: jax.Array) -> tuple[Sums, Varied]:
        gradient, sums = self._gradient(*parts, jax.tree.map(lambda rows: rows[0], batch), step, 0)
        return sums, gradient

    def _of_group(self, batch: Batch, parts: tuple[Varied, Frozen], step: jax.Array) -> tuple[Sums, Varied]:
        varied, rest = parts

        def accumulate(carry: Any, microbatch: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            gradient, sums = self._gradient(varied, rest, microbatch[0], step, microbatch[1])
            added = jax.tree.map(lambda total, one: total + one.astype(jnp.float32), carry, (sums, gradient))
            return constrain_here(added), None

        one = jax.tree.map(lambda rows: rows[0], batch)
        sums = jax.eval_shape(lambda: self._gradient(varied, rest, one, step, 0)[1])
        zero = jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), jnp.float32), (sums, varied))
        microbatches = len(jax.tree.leaves(batch)[0])
        return jax.lax.scan(accumulate, constrain_here(zero), (batch, jnp.arange(microbatches)))[0]
