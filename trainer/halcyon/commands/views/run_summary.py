"""The summary of a run before it starts: its model, optimizer state, memory, tokens, data shares and mesh. Nothing runs
on a device.

All sizes come from the shapes and shardings of the program, which need no compilation. `halcyon.models.flops` counts
the FLOPs.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

from halcyon.models.axes import is_named
from halcyon.models.flops import model_flops, weight_flops
from halcyon.models.parameters import dotted, split
from halcyon.step.device_use import share_bytes
from halcyon.step.program import Program
from halcyon_api.memory import least_need
from halcyon_api.mesh import model_shape
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.training_run import TrainingRun, TrainingRunSpec

_WIDE_BYTES = 4
"""Gradients are float32."""


@dataclass(frozen=True)
class ParameterRow:
    """One parameter of the model; parameters of equal blocks are stacked into one.

    Attributes:
        path: Its path in the model.
        axes: Names and sizes of its axes.
        dtype: Its type.
        role: Its role (`halcyon.models.parameters.Role`).
        parameters: Its elements.
        size_bytes: Its size.
        flops_per_token: Operations of training for each token, forward and backward.
    """

    path: str
    axes: tuple[tuple[str, int], ...]
    dtype: str
    role: str
    parameters: int
    size_bytes: int
    flops_per_token: int


@dataclass(frozen=True)
class StateRow:
    """One part of the optimizer state: the arrays below a path that have the paths of parameters, or a single array."""

    path: str
    dtype: str
    elements: int
    size_bytes: int


@dataclass(frozen=True)
class DeviceRow:
    """Memory of one device, in bytes.

    Attributes:
        parameters: Its share of the parameters.
        optimizer: Its share of the optimizer state.
        gradients: Its share of the gradients of the trained parameters, in float32.
        activations_at_least: A lower bound of the activations (`halcyon_api.memory.least_need`).
        available: Memory of the device. None: not known.
    """

    parameters: int
    optimizer: int
    gradients: int
    activations_at_least: int
    available: int | None


@dataclass(frozen=True)
class SourceRow:
    """A source of the data.

    Attributes:
        name: Its name.
        kind: Its kind, such as ``parquet``.
        share: Its share of the training sequences at the beginning of the run. None: the share of its size, which is
            known when its text is tokenized (`halcyon data stats`).
        validation: Share of its sequences that is held out.
    """

    name: str
    kind: str
    share: float | None
    validation: float


@dataclass(frozen=True)
class Summary:
    """The summary of a run.

    Attributes:
        run: Name of the run.
        family: Family of the model.
        vocabulary: Tokens of the tokenizer.
        accelerator: Type of the accelerator.
        devices: Devices of the run.
        mesh: Size of each mesh axis, outermost first.
        parameters: The parameters, in the order of the model.
        active_parameters: Parameters that the computation of one token uses. None: not known, for a custom model.
        flops_per_token: Operations of training for each token, forward and backward, at the longest sequence.
        attention_flops_per_token: The part of it that no weight explains: scores and values of attention, recurrent
            states.
        optimizer: Kind of the update rule.
        state: The optimizer state.
        device: Memory of one device.
        steps: Steps of the run.
        batch_size: Sequences of the first step.
        sequence_length: Positions of a sequence of the first step.
        tokens: Tokens of the run.
        peak_flops_per_second: Peak of all devices together. None: not known.
        sources: The sources of the data.
    """

    run: str
    family: str
    vocabulary: int
    accelerator: str
    devices: int
    mesh: dict[str, int]
    parameters: tuple[ParameterRow, ...]
    active_parameters: int | None
    flops_per_token: int
    attention_flops_per_token: int
    optimizer: str
    state: tuple[StateRow, ...]
    device: DeviceRow
    steps: int
    batch_size: int
    sequence_length: int
    tokens: int
    peak_flops_per_second: float | None
    sources: tuple[SourceRow, ...]

    @property
    def parameter_count(self) -> int:
        """Elements of all parameters."""
        return sum(row.parameters for row in self.parameters)

    @property
    def flops(self) -> int:
        """Operations of the whole run, at the longest sequence."""
        return self.flops_per_token * self.tokens

    def document(self) -> dict[str, Any]:
        """The summary as JSON."""
        return {**asdict(self), "parameter_count": self.parameter_count, "flops": self.flops}


def summarize(run: TrainingRun, program: Program, mesh: ResolvedMesh, vocabulary: int) -> Summary:
    """The summary of a run of task ``train``.

    Args:
        run: The run.
        program: Its program; nothing of it is compiled.
        mesh: Its mesh.
        vocabulary: Tokens of the tokenizer.
    """
    spec, row = run.spec, run.spec.accelerator.row
    flops = model_flops(spec, program.template.model, vocabulary)
    rows = tuple(
        ParameterRow(
            path=path,
            axes=tuple((axis.name, axis.size) for axis in leaf.axes),
            dtype=str(np.dtype(leaf.array.dtype)),
            role=parameter.role.value,
            parameters=math.prod(leaf.array.shape),
            size_bytes=math.prod(leaf.array.shape) * leaf.array.dtype.itemsize,
            flops_per_token=each,
        )
        for path, leaf, parameter, each in weight_flops(spec, program.template.model, vocabulary)
    )
    trained = jax.tree.leaves(split(program.template.model, program.trained)[0])
    custom = spec.model.family == "custom"
    return Summary(
        run=run.metadata.name,
        family=spec.model.family,
        vocabulary=vocabulary,
        accelerator=spec.accelerator.type,
        devices=mesh.devices,
        mesh=dict(program.mesh.shape),
        parameters=rows,
        active_parameters=None if custom else model_shape(spec).active_parameters,
        flops_per_token=flops.per_token,
        attention_flops_per_token=flops.attention,
        optimizer=spec.optimizer.kind,
        state=tuple(state_rows(program.template.optimizer_state, program.template.model)),
        device=DeviceRow(
            parameters=share_bytes((program.template.model, program.template.reference, program.template.sampler)),
            optimizer=share_bytes(program.template.optimizer_state),
            gradients=sum(_WIDE_BYTES * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in trained),
            activations_at_least=0 if custom else least_need(spec, mesh).batch_bytes,
            available=row.memory_bytes,
        ),
        steps=spec.trainer.steps,
        batch_size=spec.trainer.batch_size,
        sequence_length=spec.trainer.sequence_length,
        tokens=spec.trainer.tokens,
        peak_flops_per_second=None if row.peak_flops_per_second is None else row.peak_flops_per_second * mesh.devices,
        sources=source_rows(spec),
    )


def state_rows(state: Any, model: Any) -> Iterator[StateRow]:
    """The parts of an optimizer state, the arrays of one kind together.

    Args:
        state: The state, or its shapes.
        model: The model, or its shapes; its paths end the paths of arrays that belong to parameters.
    """
    ends = sorted((f".{path}" for path, _ in _leaves(model)), key=len, reverse=True)
    elements: Counter[tuple[str, np.dtype]] = Counter()
    for path, leaf in _leaves(state):
        name = path.removesuffix(next(filter(path.endswith, ends), ""))
        for array in jax.tree.leaves(leaf):
            elements[name, np.dtype(array.dtype)] += math.prod(array.shape)
    for (name, dtype), count in elements.items():
        yield StateRow(name, str(dtype), count, count * dtype.itemsize)


def source_rows(spec: TrainingRunSpec) -> tuple[SourceRow, ...]:
    """The sources of a run. No text is read."""
    data = spec.data
    weights = [source.weight for source in data.sources]
    total = math.fsum(weight or 0.0 for weight in weights)
    return tuple(
        SourceRow(
            name=source.name,
            kind=source.kind,
            share=weight / total if weight is not None and total else 1.0 if len(weights) == 1 else None,
            validation=data.validation.fraction if source.validation is None else source.validation.fraction,
        )
        for source, weight in zip(data.sources, weights, strict=True)
    )


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree with their dotted paths."""
    return [(dotted(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_named)]
