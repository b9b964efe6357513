"""The program of a run: model, optimizer and loss, built from the spec and compiled ahead of the loop.

Compilation needs only shapes, so it runs in the background while the data is opened and the checkpoint is read.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from halcyon.data.loader import padded_rows
from halcyon.host.errors import BadConfiguration
from halcyon.models import CausalLM, build_model
from halcyon.models.adapters import check_used, has_adapter, with_adapter, without_adapter
from halcyon.models.axes import BATCH, BESIDE, POSITION, VOCAB
from halcyon.models.dropout import WithSites
from halcyon.models.parameters import split
from halcyon.models.parts.attention_choice import CannotServe, Choice, Target, attending
from halcyon.models.softmax import logits_for
from halcyon.models.stack import stacks_of, with_loops
from halcyon.optim import build_optimizer, learning_rate, update_arguments
from halcyon.optim.groups import trained
from halcyon.optim.registry import estimator_of, needs_key
from halcyon.parallel.axes import COMPUTE_AXES, undivided
from halcyon.parallel.device_mesh import MESH_AXES
from halcyon.parallel.partition import computing
from halcyon.step.batches_override import Rows
from halcyon.step.compilation import compiler_options, pipelines_blocks
from halcyon.step.gradients import Gradients
from halcyon.step.in_step import InStep
from halcyon.step.objectives import build_objective
from halcyon.step.objectives.objective import Batch, Objective
from halcyon.step.offload import in_host_memory
from halcyon.step.overrides import Overrides
from halcyon.step.state import (
    BuildState,
    CompleteState,
    Model,
    TrainState,
    state_completer,
    state_template,
    vocabulary_of,
)
from halcyon.step.step import StepMetrics, make_train_step
from halcyon.tokenizer import Tokenizer, check_rows
from halcyon_api.mesh import gathers_once
from halcyon_api.objectives import has_reference_copy
from halcyon_api.spec.attention import AttentionName
from halcyon_api.spec.average import AverageSpec
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.tokenizer import VOCABULARY_MULTIPLE
from halcyon_api.spec.trainer import Determinism, InEffect, in_effect, unrolled_blocks
from halcyon_api.training_run import TrainingRunSpec

TrainStep = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, StepMetrics]]
STEP_MODULE = "jit_train_step"
"""JAX's name of the compiled step."""
_ADAPTER = 0x10A
"""Number of the key of an adapter's first parameters."""


@dataclass(frozen=True)
class Program:
    """The functions that run on devices, before compilation, with their shapes and shardings."""

    build_state: BuildState
    complete_state: CompleteState
    """Makes the state before the first step from a model."""
    template: TrainState
    """Shapes, types and shardings of the state."""
    gradients: Gradients
    """How the gradient of a batch is computed."""
    train_step: TrainStep
    mesh: Mesh
    batch_sharding: NamedSharding
    """Sharding of arrays [microbatches, batch, position]; of given batches, of [microbatches, batch, …]."""
    control_sharding: NamedSharding
    """Sharding of an array [devices] with one control value for each device."""
    microbatches: int
    unroll: int = 1
    """Blocks of the model in one iteration of a loop over them."""
    trained: Any = None
    """True in the place of each trained parameter (see `halcyon.models.parameters`). None: all are trained."""
    average: AverageSpec | None = None
    """``spec.average``."""
    watched_step: TrainStep | None = None
    """The step of the numbers that the run watches; None without ``spec.telemetry.watch``."""
    attention: AttentionName = "auto"
    """``spec.trainer.attention``."""
    determinism: Determinism = "bitwise"
    """``spec.trainer.determinism``."""
    attention_choices: dict[str, str] = field(default_factory=dict[str, str])
    """The implementations of attention in the functions traced so far, each with the reason of its choice."""
    in_step: tuple[InStep, ...] = ()
    """Functions of the library's user inside the step."""
    rows: Rows | None = None
    """The shapes of given batches. None: the batches are of text."""
    first_model: Model | None = None
    """The given model to begin with. None: that of the document."""
    target: Target | None = None
    """The devices that the program is made for; None: those of the mesh."""

    @property
    def objective(self) -> Objective:
        """The objective to minimise."""
        return self.gradients.objective

    @property
    def determinism_in_effect(self) -> InEffect:
        """What `determinism` is on the devices of the mesh."""
        return in_effect(self.determinism, self.mesh.devices.flat[0].platform)

    def compiler_options(self) -> dict[str, Any]:
        """XLA's options for the programs that compute with the model."""
        return compiler_options(self.determinism, mesh=self.mesh, unroll=self.unroll)

    def compile_step(self, batch_size: int, sequence_length: int, *, watched: bool = False) -> jax.stages.Compiled:
        """Compile the step for batches of this size. The compiled step donates its state argument. See `lower_step`."""
        return self.compile(self.lower_step(batch_size, sequence_length, watched=watched))

    def compile(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        """Compile a traced step with the options of a step."""
        return lowered.compile(compiler_options=self.compiler_options())

    def trace_step(self, batch_size: int, sequence_length: int, *, watched: bool = False) -> jax.stages.Traced:
        """Trace the step for batches of this size.

        Args:
            batch_size: Sequences of the batch.
            sequence_length: Positions of a sequence.
            watched: Take the step that also computes the numbers of ``spec.telemetry.watch``.

        Raises:
            BadConfiguration: The named implementation of attention cannot compute the model's attention on these
                devices.
        """
        batch = self.batch_shapes(batch_size, sequence_length)
        control: Any = jax.ShapeDtypeStruct((self.mesh.size,), jnp.int32, sharding=self.control_sharding)
        step = self.watched_step if watched and self.watched_step is not None else self.train_step
        with self.tracing():
            return jax.jit(step, donate_argnums=0).trace(self.template, batch, control)

    def lower_step(
        self, batch_size: int, sequence_length: int, *, watched: bool = False, platform: str | None = None
    ) -> jax.stages.Lowered:
        """Trace the step and lower it. See `trace_step`.

        Args:
            batch_size: Sequences of the batch.
            sequence_length: Positions of a sequence.
            watched: Take the step that also computes the numbers of ``spec.telemetry.watch``.
            platform: JAX's name of the platform to lower for, such as ``cuda``. None: that of the mesh. Such a step
                cannot be compiled.
        """
        traced = self.trace_step(batch_size, sequence_length, watched=watched)
        return self.lower(traced, platform)

    def lower(self, traced: jax.stages.Traced, platform: str | None = None) -> jax.stages.Lowered:
        """Lower a traced step. See `lower_step`."""
        with self.tracing():
            return traced.lower(lowering_platforms=None if platform is None else (platform,))

    def batch_shapes(self, batch_size: int, sequence_length: int) -> Any:
        """The shapes and shardings of a batch: arrays [microbatches, row, …] by name."""
        rows = (self.microbatches, self.padded(batch_size) // self.microbatches)
        of_row = {} if self.rows is None else self.rows.shapes
        return {
            name: jax.ShapeDtypeStruct(
                (*rows, *of_row.get(name, dtype.shape or (sequence_length,))), dtype.base, sharding=self.batch_sharding
            )
            for name, dtype in self.objective.fields.items()
        }

    def padded(self, batch_size: int) -> int:
        """Rows of a batch with its padding."""
        return self.microbatches * padded_rows(batch_size, self.microbatches, self.batch_sharding)

    def size_of(self, batch: Batch) -> tuple[int, int]:
        """Rows, padding included, and length of a batch, as `compile_step` takes them."""
        shape = next(array.shape for name, array in batch.items() if name not in BESIDE)
        return shape[0] * shape[1], shape[2] if self.rows is None else self.rows.length

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """The context to trace functions of the model in: the mesh of its axes, the choice of attention, the size of
        blocks of logits.
        """
        device = self.mesh.devices.flat[0]

        def on_choice(choice: Choice) -> None:
            self.attention_choices.setdefault(choice.implementation, choice.reason)

        try:
            with (
                computing(self.mesh),
                attending(self.attention, self.target or Target.of(device), on_choice),
                logits_for(device),
            ):
                yield
        except CannotServe as error:
            raise BadConfiguration(str(error)) from None


def padded_vocabulary(tokens: int) -> hax.Axis:
    """The model's vocabulary axis for a tokenizer with this number of tokens."""
    return hax.Axis(VOCAB, -(-tokens // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE)


def padded_token_bytes(sizes: np.ndarray) -> np.ndarray:
    """Bytes of text of each token of the model's vocabulary: int32 [vocabulary]; 0 for the padding.

    Args:
        sizes: Bytes of text of each token of the tokenizer: int32 [tokens].
    """
    return np.pad(sizes, (0, padded_vocabulary(len(sizes)).size - len(sizes)))


def rate_in(optimizer_state: optax.OptState) -> jax.Array:
    """The learning rate in the state of a given transformation (``optax.inject_hyperparams``); NaN: there is none."""
    rates = [
        found["learning_rate"]
        for _, found in optax.tree.get_all_with_path(optimizer_state, "hyperparams")
        if "learning_rate" in found
    ]
    return jnp.asarray(rates[0] if rates else jnp.nan, jnp.float32)


def _check_divided(model: Model, mesh: Mesh, field: str = "spec.model") -> None:
    found = undivided(model, mesh)
    if found is not None:
        raise BadConfiguration(
            f"{field}: the axis {found.axis.name} of the parameter {found.path} has {found.axis.size} "
            "elements, which the "
            f"{found.mesh_axis} axis of the mesh, {found.parts}, does not divide; change the configuration or spec.mesh"
        )


def build_program(
    spec: TrainingRunSpec,
    vocab_size: int,
    mesh: Mesh,
    in_step: Sequence[InStep] = (),
    overrides: Overrides | None = None,
    tokenizer: Tokenizer | None = None,
) -> Program:
    """Build the program of a run.

    Args:
        spec: The run's spec.
        vocab_size: Number of tokens of the tokenizer.
        mesh: The device mesh.
        in_step: Functions of the library's user inside the step.
        overrides: Parts that the library's user gives in the place of sections of the spec.
        tokenizer: See `build_objective`.

    Raises:
        BadConfiguration: The mesh does not divide a parameter of a custom or given model. The sizes of other models are
            checked before. Or the groups of ``spec.optimizer`` do not fit the model (`halcyon.optim.groups`).
    """
    settings, overrides = spec.trainer, overrides or Overrides()
    unroll = unrolled_blocks(
        settings.unroll, mesh.devices.flat[0].platform, mesh.shape, settings.remat, pipelined=pipelines_blocks(mesh)
    )
    vocab = padded_vocabulary(vocab_size)
    max_position = hax.Axis(POSITION, settings.longest_sequence)

    parts = overrides.parts  # outside of any trace: it makes the arrays of a model that is given by name

    def built(section: ModelSection, dtype: str) -> Model:
        key = jax.random.key(settings.seed)
        model = build_model(section, vocab, max_position, tokens=vocab_size, dtype=dtype, key=key)
        return with_loops(model, settings.remat, unroll)

    def build() -> Model:
        return built(spec.model, settings.precision.parameters) if parts is None else parts.parameters

    lora = spec.lora

    def adapted(model: Model) -> Model:
        key = jax.random.fold_in(jax.random.key(settings.seed), _ADAPTER)
        return model if lora is None or has_adapter(model) else with_adapter(model, lora, key)

    teacher = spec.objective.teacher if spec.has_steps else None
    teaching: Any = None
    if teacher is not None:
        teaching = jax.eval_shape(lambda: built(teacher.model, settings.precision.compute))
        _check_divided(teaching, mesh, "spec.objective.teacher.model")

    def reference(model: Model) -> Model | None:
        """The reference; in the place of a teacher, whose weights are read later, zeros."""
        if teaching is not None:
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), teaching)
        return model if has_reference_copy(spec) else None

    shapes = jax.eval_shape(lambda: adapted(build()))
    if parts is not None or spec.model.family == "custom" or (lora is not None and lora.base is not None):
        _check_divided(without_adapter(shapes), mesh)
    if overrides.source is None and isinstance(shapes, CausalLM):
        check_rows(vocab_size, shapes.token_count, "model")
    if lora is not None and spec.model.family == "custom":
        check_used(shapes)
    sited: Any = shapes
    drops = settings.dropout is not None and settings.dropout.drops
    if drops and not isinstance(sited, WithSites):
        raise BadConfiguration(
            "spec.trainer.dropout: only the models of Halcyon's families have its sites; leave it out, or take a family"
        )
    own_rule = overrides.transformation
    flags = trained(spec.optimizer, shapes, lora) if own_rule is None or parts is None else None
    part = split(shapes, flags)[0]
    objective = overrides.objective_of(build_objective(spec, tokenizer))
    optimizer = own_rule or build_optimizer(
        spec.optimizer, part, settings.precision.moments, settings.precision.moments_rounding
    )
    divergence, policy = spec.recovery.divergence, spec.objective.policy
    complete_state = state_completer(
        optimizer, divergence, adapted, flags, spec.average,
        reference=reference,
        has_sampler=policy is not None and policy.has_sampler,
    )  # fmt: skip

    def build_state() -> TrainState:
        return complete_state(build())

    template = state_template(build_state, mesh)
    if settings.offload == "optimizer":
        template = in_host_memory(template)
    gradients = Gradients(
        objective,
        settings.seed,
        dropout=(lora is not None and lora.dropout > 0) or drops or spec.objective.masked_token is not None,
        gather_once=gathers_once(spec, fsdp=mesh.shape["fsdp"], tensor=mesh.shape["tensor"]),
    )
    make_step = functools.partial(
        make_train_step,
        gradients,
        optimizer,
        learning_rate(spec.optimizer, settings),  # not used by a given rule
        mesh,
        divergence,
        update_arguments=update_arguments(spec.optimizer, settings.steps),
        rate_of=None if own_rule is None else rate_in,
        stochastic=settings.precision.rounding == "stochastic",
        trained=flags,
        random=needs_key(spec.optimizer, settings.precision),
        estimator=estimator_of(spec.optimizer),
        average=spec.average,
        in_step=in_step,
        sampler_steps=1 if policy is None else policy.updates_per_rollout,
        tokens=vocabulary_of(shapes),
    )
    rows = None if overrides.source is None else overrides.source.rows
    positions = (COMPUTE_AXES[POSITION],) if rows is None else ()
    watch = spec.telemetry.watch
    if watch is not None and watch.every_steps > settings.steps:
        watch = None  # no step is watched, so its program need not be compiled
    if watch is not None and "activations" in watch.what and not stacks_of(shapes):
        raise BadConfiguration(
            "spec.telemetry.watch.what: the model has no halcyon.models.stack.Stack, so its blocks cannot be watched; "
            "leave activations out, or compute the blocks in a Stack"
        )
    return Program(
        build_state=build_state,
        complete_state=complete_state,
        template=template,
        gradients=gradients,
        train_step=make_step(),
        watched_step=None if watch is None else make_step(watch=watch),
        mesh=mesh,
        batch_sharding=NamedSharding(mesh, PartitionSpec(None, COMPUTE_AXES[BATCH], *positions)),
        control_sharding=NamedSharding(mesh, PartitionSpec(MESH_AXES)),
        microbatches=settings.least_microbatches,
        unroll=unroll,
        trained=flags,
        average=spec.average,
        rows=rows,
        first_model=None if parts is None else parts.parameters,
        attention=settings.attention,
        determinism=settings.determinism,
        in_step=tuple(in_step),
    )
