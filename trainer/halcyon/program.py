"""The program of a run: model, optimizer and loss put together from the spec, as functions of shapes, and compiled ahead of the loop.

Compiling needs shapes alone, so it goes on in the background while the data is opened and the checkpoint is read.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import haliax as hax
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from halcyon.compilation import compiler_options
from halcyon.data.loader import Batch
from halcyon.models import build_model, next_token_losses
from halcyon.optim import build_optimizer, learning_rate
from halcyon.parallel.axes import BATCH, COMPUTE_AXES, POSITION, VOCAB, computing
from halcyon.parallel.mesh import MESH_AXES
from halcyon.state import BuildState, Model, TrainState, state_builder, state_template
from halcyon.step import LossSums, StepMetrics, make_train_step
from halcyon_api.spec.tokenizer import VOCABULARY_MULTIPLE
from halcyon_api.training_run import TrainingRunSpec

TrainStep = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, StepMetrics]]


@dataclass(frozen=True)
class Program:
    """Everything that is computed on devices, before it is compiled."""

    build_state: BuildState
    template: TrainState
    """Shapes, types and shardings of the state."""
    loss_sums: LossSums
    train_step: TrainStep
    mesh: Mesh
    batch_sharding: NamedSharding
    """Of arrays [microbatches, batch, position]."""
    control_sharding: NamedSharding
    """Of one control value for each device."""
    batch_shape: tuple[int, int, int]

    def compile_step(self) -> TrainStep:
        """The compiled step; it takes the state's memory over."""
        arrays = [
            cast("jax.Array", jax.ShapeDtypeStruct(self.batch_shape, dtype, sharding=self.batch_sharding))
            for dtype in (jnp.int32, jnp.int32, jnp.float32)
        ]
        control: Any = jax.ShapeDtypeStruct((self.mesh.size,), jnp.int32, sharding=self.control_sharding)
        with self.tracing():
            lowered = jax.jit(self.train_step, donate_argnums=0).lower(self.template, Batch(*arrays), control)
            return lowered.compile(compiler_options=compiler_options())

    def tracing(self) -> AbstractContextManager[None]:
        """The context in which any function of the model is traced: it ties the model's axes to the mesh."""
        return computing(self.mesh)


def padded_vocabulary(tokens: int) -> hax.Axis:
    """The model's vocabulary axis for a tokenizer of so many tokens."""
    return hax.Axis(VOCAB, -(-tokens // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE)


def build_program(spec: TrainingRunSpec, vocab_size: int, mesh: Mesh) -> Program:
    """Put the program of a run together.

    Args:
        spec: The run's spec.
        vocab_size: Tokens of the tokenizer.
        mesh: The device mesh.
    """
    settings = spec.trainer
    vocab = padded_vocabulary(vocab_size)
    max_position = hax.Axis(POSITION, settings.sequence_length)
    compute_dtype = jnp.dtype(settings.precision.compute)

    def build() -> Model:
        key = jax.random.key(settings.seed)
        return build_model(spec.model, vocab, max_position, dtype=settings.precision.parameters, key=key)

    def loss_sums(model: Model, tokens: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        axes = (hax.Axis(BATCH, tokens.shape[0]), hax.Axis(POSITION, tokens.shape[1]))
        named: list[Any] = [hax.named(array, axes) for array in (tokens, targets, weights)]
        return next_token_losses(model, *named, compute_dtype=compute_dtype)

    optimizer = build_optimizer(spec.optimizer, settings.steps, jax.eval_shape(build))
    build_state = state_builder(build, optimizer)
    return Program(
        build_state=build_state,
        template=state_template(build_state, mesh),
        loss_sums=loss_sums,
        train_step=make_train_step(loss_sums, optimizer, learning_rate(spec.optimizer, settings.steps), mesh),
        mesh=mesh,
        batch_sharding=NamedSharding(mesh, PartitionSpec(None, COMPUTE_AXES[BATCH], None)),
        control_sharding=NamedSharding(mesh, PartitionSpec(MESH_AXES)),
        batch_shape=(settings.microbatches, settings.batch_size // settings.microbatches, settings.sequence_length),
    )
