"""``halcyon``, but half of the targets are the model's own choice: ``python -m tests.trainer.support.rollout_child
train RUN.YAML``.

The variables of `tests.trainer.support.trouble_child` work here too.
"""

from __future__ import annotations

import functools
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp

from halcyon.commands.main import app
from halcyon.data.dataset import Dataset
from halcyon.data.examples import Batch
from halcyon.models import Inputs
from halcyon.models.axes import BATCH, POSITION
from halcyon.run import train as train_task
from halcyon.step.batch_source import dataset_batches
from halcyon.step.program import Program
from halcyon.step.state import TrainState
from halcyon_api.spec.trainer import TrainerSpec
from tests.trainer.support.trouble_child import install


class Rollouts:
    """Batches whose targets, in the second half of each sequence, are the most likely tokens of the model in the
    state.
    """

    def __init__(self, dataset: Dataset, program: Program, settings: TrainerSpec) -> None:
        self._text = dataset_batches(dataset, program, settings)
        self._program = program
        self._targets = jax.jit(chosen_targets, out_shardings=program.batch_sharding)

    @property
    def last_wait_seconds(self) -> float:
        return self._text.last_wait_seconds

    def batch(self, step: int, state: TrainState) -> Batch:
        batch = self._text.batch(step, state)
        with self._program.tracing():
            targets = self._targets(state.model, batch["tokens"], batch["targets"])
        if jnp.array_equal(targets, batch["targets"]):
            raise AssertionError("the model chose no target")
        return {**batch, "targets": targets}

    def close(self) -> None:
        self._text.close()


def chosen_targets(model: Any, tokens: jax.Array, targets: jax.Array) -> jax.Array:
    """Targets [microbatches, batch, position] of which the model chose the second half."""

    def of_microbatch(tokens: jax.Array) -> jax.Array:
        named = hax.named(tokens, (hax.Axis(BATCH, tokens.shape[0]), hax.Axis(POSITION, tokens.shape[1])))
        return hax.argmax(model.logits(model(Inputs(named)).features), model.vocab).array.astype(jnp.int32)

    later = jnp.arange(tokens.shape[2]) >= tokens.shape[2] // 2
    return jnp.where(later, jax.lax.map(of_microbatch, tokens), targets)


if __name__ == "__main__":
    install()
    train_task.train = functools.partial(train_task.train, batch_source=Rollouts)  # type: ignore[assignment]
    app()
