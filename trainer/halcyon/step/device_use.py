"""The plan of a run: how its compiled step uses the devices. Pure functions of the program; nothing runs on a device.

The shapes and shardings of the state give the bytes of parameters, optimizer state and gradients on one device. The
compiler's analysis gives the memory of the whole step, and the optimised HLO gives the kernels, loops, matrix products
and collectives.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax

from halcyon.data.loader import padded_rows
from halcyon.models.parameters import split
from halcyon.step.hlo.collectives import Collective, collectives
from halcyon.step.hlo.contents import Call, Loop, Product, calls, loops, products
from halcyon.step.hlo.module import parse
from halcyon.step.hlo.schedule import Overlap, crosses, overlap, sent_bytes
from halcyon.step.hlo.work import Rates, Work, work_by_part
from halcyon.step.offload import is_on_host
from halcyon.step.program import Program
from halcyon_api.counting import size
from halcyon_api.spec.mesh import product, splitting
from halcyon_api.spec.trainer import Remat

_WIDE_BYTES = 4
"""Gradients are float32."""
SMALL_BYTES = 4096
"""Collectives of fewer bytes in a whole step (scalars and vectors of norms) are not listed."""


@dataclass(frozen=True)
class DeviceBytes:
    """Memory of one device during a step, in bytes.

    Attributes:
        parameters: Its share of the parameters.
        optimizer: Its share of the optimizer state and of the average of the parameters.
        gradients: Its share of the gradients, in float32.
        activations: All else that the step needs for a time: activations, gathered parameters, the compiler's copies.
            None: not known.
        step: The whole step, with its arguments and results. None: not known.
        available: Memory of the device. None: not known.
        frozen: The part of `parameters` that is not trained.
        offloaded: The part of `optimizer` that is in the host's memory. `step` does not contain it on accelerators.
        kept_on_host: Activations that the host's memory keeps until the backward pass (``remat: offload``). They are in
            neither `activations` nor `step`.
    """

    parameters: int
    optimizer: int
    gradients: int
    activations: int | None
    step: int | None
    available: int | None
    frozen: int = 0
    offloaded: int = 0
    kept_on_host: int = 0


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind over the same mesh axes and inside the same number of loops, in one step.

    Attributes:
        kind: Their HLO operation, such as ``all-gather``.
        axes: The mesh axes.
        times: Their number.
        size_bytes: Sum of their full arrays on one device: before a scatter, after a gather.
        depth: Number of loops around them.
        largest_bytes: The largest of their arrays.
        sent_bytes: Bytes that a device sends in them.
        between: Whether they exchange data between slices, or between hosts of GPUs.
    """

    kind: str
    axes: tuple[str, ...]
    times: int
    size_bytes: int
    depth: int = 0
    largest_bytes: int = 0
    sent_bytes: int = 0
    between: bool = False


@dataclass(frozen=True)
class Plan:
    """How the step of a run uses the devices.

    Attributes:
        mesh: Size of each mesh axis, outermost first.
        platform: Platform that the step was compiled for.
        batch_size: Sequences of a step.
        sequence_length: Positions of a sequence.
        microbatches: Parts of the batch, computed one after the other.
        rows: Sequences of a microbatch on one device. Devices that split positions, heads or features share them.
        positions: Positions of each of these sequences on one device.
        remat: The remat policy.
        unroll: Blocks in one iteration of the loop over them.
        memory: Memory of a device.
        traffic: The collectives of a step, the largest sum first.
        calls: Its calls of kernels and libraries.
        loops: Its loops.
        products: Its matrix products, those with the most operations first.
        overlap: Time of its collectives and computation on an ideal device. None: the device's speed is not known.
        work: What a device computes for each part of the step; empty if its speed is not known.
        compile_seconds: Seconds that the compiler took. None: not measured.
    """

    mesh: dict[str, int]
    platform: str
    batch_size: int
    sequence_length: int
    microbatches: int
    rows: int
    positions: int
    remat: Remat
    unroll: int
    memory: DeviceBytes
    traffic: tuple[Traffic, ...]
    calls: tuple[Call, ...] = ()
    loops: tuple[Loop, ...] = ()
    products: tuple[Product, ...] = ()
    overlap: Overlap | None = None
    work: tuple[Work, ...] = ()
    compile_seconds: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch_size * self.sequence_length

    @property
    def device_tokens(self) -> float:
        """Tokens of a step on one device."""
        return self.tokens / math.prod(self.mesh.values())

    @property
    def kernels(self) -> tuple[Call, ...]:
        """Its calls that are no library's matrix products."""
        return tuple(call for call in self.calls if not call.is_product)

    def sentence(self) -> str:
        """The plan in one line, for the status."""
        sequences = f"{self.rows} {'sequence' if self.rows == 1 else 'sequences'} of {self.positions}"
        parts = [product(self.mesh), f"{self.microbatches} x {sequences} on a device", f"remat {self.remat}"]
        rows = self.microbatches * self.rows * _parts(self.mesh, "batch")
        if rows > self.batch_size:
            parts.append(f"{rows - self.batch_size} of {rows} rows are padding")
        if on_host := self.memory.offloaded + self.memory.kept_on_host:
            parts.append(f"{size(on_host)} in host memory")
        if self.memory.step is not None:
            of = "" if self.memory.available is None else f" of {size(self.memory.available)}"
            parts.append(f"{size(self.memory.step)}{of}")
        return ", ".join(parts)

    def document(self) -> dict[str, Any]:
        """The plan as JSON."""
        return asdict(self)


def event_fields(plan: Plan) -> dict[str, Any]:
    """The fields of the event ``plan``."""
    memory = plan.memory
    numbers = {
        "parametersBytes": memory.parameters,
        "optimizerBytes": memory.optimizer,
        "offloadedBytes": memory.offloaded or None,
        "gradientsBytes": memory.gradients,
        "activationsBytes": memory.activations,
        "stepBytes": memory.step,
        "deviceBytes": memory.available,
    }
    return {
        "batchSize": plan.batch_size,
        "sequenceLength": plan.sequence_length,
        "microbatches": plan.microbatches,
        "remat": plan.remat,
        "unroll": plan.unroll,
        **{name: number for name, number in numbers.items() if number is not None},
        "kernels": "; ".join(f"{call.kernel} ({call.target}): {call.times}" for call in plan.kernels),
        "collectives": "; ".join(
            f"{row.kind} over {' x '.join(row.axes)}: {size(row.size_bytes)} in {row.times}" for row in plan.traffic
        ),
    }


def plan_of(
    program: Program,
    step: jax.stages.Compiled,
    batch_size: int,
    sequence_length: int,
    *,
    remat: Remat,
    memory_bytes: int | None,
    rates: Rates | None = None,
    compile_seconds: float | None = None,
) -> Plan:
    """The plan of a compiled step.

    Args:
        program: The program of the run.
        step: Its step, compiled for batches of these sizes.
        batch_size: Sequences of a step.
        sequence_length: Positions of a sequence.
        remat: The remat policy of the model.
        memory_bytes: Memory of a device. None: not known.
        rates: Speed of a device. None: not known.
        compile_seconds: See `Plan`.
    """
    sizes = dict(program.mesh.shape)
    _, frozen = split(program.template.model, program.trained)
    gradients = gradient_bytes(program)
    temporary = _analysis(step, "temp")
    module = parse(step.as_text() or "")
    return Plan(
        mesh=sizes,
        platform=program.mesh.devices.flat[0].platform,
        batch_size=batch_size,
        sequence_length=sequence_length,
        microbatches=program.microbatches,
        rows=padded_rows(batch_size, program.microbatches, program.batch_sharding) // _parts(sizes, "batch"),
        positions=sequence_length // _parts(sizes, "position"),
        remat=remat,
        unroll=program.unroll,
        memory=DeviceBytes(
            parameters=share_bytes((program.template.model, program.template.reference, program.template.sampler)),
            optimizer=share_bytes((program.template.optimizer_state, program.template.average)),
            gradients=gradients,
            activations=None if temporary is None else max(0, temporary - gradients),
            step=step_bytes(step),
            available=memory_bytes,
            frozen=share_bytes(frozen),
            offloaded=share_bytes([leaf for leaf in jax.tree.leaves(program.template) if is_on_host(leaf)]),
            kept_on_host=_analysis(step, "host_temp") or 0,
        ),
        traffic=traffic_of(
            collectives(module), tuple(sizes), tuple(sizes.values()), island=None if rates is None else rates.island
        ),
        calls=calls(module),
        loops=loops(module),
        products=products(module),
        overlap=None if rates is None else overlap(module, rates, program.mesh.size),
        work=() if rates is None else work_by_part(module, rates),
        compile_seconds=compile_seconds,
    )


def gradient_bytes(program: Program) -> int:
    """Bytes of one device's share of the gradients."""
    trained, _ = split(program.template.model, program.trained)
    return sum(_WIDE_BYTES * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(trained))


def share_bytes(template: Any) -> int:
    """Bytes of one device's share of arrays. Each leaf has a shape, a type and a sharding."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(template)
    )


def step_bytes(step: jax.stages.Compiled) -> int | None:
    """Memory that a device needs for a compiled step: arguments, results that do not reuse them, and temporary arrays.

    None: not known.
    """
    kinds = [_analysis(step, kind) for kind in ("argument", "output", "temp", "alias")]
    if None in kinds:
        return None
    arguments, results, temporary, reused = (found or 0 for found in kinds)
    return arguments + results + temporary - reused


def traffic_of(
    found: Iterable[Collective], names: Sequence[str], sizes: Sequence[int], *, island: int | None = None
) -> tuple[Traffic, ...]:
    """Sums of collectives by kind, mesh axes and number of loops, the largest first, without the small ones
    (`SMALL_BYTES`).

    Args:
        found: The collectives of a program.
        names: Names of the mesh axes, outermost first.
        sizes: Their sizes.
        island: See `halcyon.step.hlo.work.Rates`.
    """
    found_rows: dict[tuple[str, tuple[str, ...], int, bool], Traffic] = {}
    devices = math.prod(sizes)
    seen: set[tuple[str, int]] = set()
    for one in found:
        if one.part_of is not None:
            if (one.kind, one.part_of) in seen:
                continue
            seen.add((one.kind, one.part_of))
        if axes := one.axes(names, sizes):
            key = (one.kind, axes, one.depth, crosses(one, devices, island))
            row = found_rows.get(key, Traffic(one.kind, axes, 0, 0, one.depth, between=key[-1]))
            found_rows[key] = replace(
                row,
                times=row.times + one.times,
                size_bytes=row.size_bytes + one.times * one.total_bytes,
                largest_bytes=max(row.largest_bytes, one.size_bytes),
                sent_bytes=row.sent_bytes + round(one.times * sent_bytes(one, devices)),
            )
    rows = [row for row in found_rows.values() if row.size_bytes >= SMALL_BYTES]
    return tuple(sorted(rows, key=lambda row: (-row.size_bytes, row.kind, row.axes)))


def _parts(sizes: dict[str, int], logical: Any) -> int:
    return math.prod(sizes.get(row.name, 1) for row in splitting(logical))


def _analysis(step: jax.stages.Compiled, kind: str) -> int | None:
    found: Any = step.memory_analysis()
    return getattr(found, f"{kind}_size_in_bytes", None)
