"""Chooses ``microbatches: auto``, ``remat: auto`` and ``offload: auto``: the fastest step that fits into the memory of
a device.

The compiler says how much memory a step needs, so each candidate is compiled. The memory falls with the number of
microbatches, so a binary search over the possible numbers compiles few candidates. More microbatches come before more
recomputation, because a microbatch repeats no computation. The host's memory comes last: its copies take more time than
both.
"""

from __future__ import annotations

import bisect
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
from jax.sharding import Mesh

from halcyon.data.batch_schedule import build_schedule
from halcyon.errors import BadConfiguration
from halcyon.parallel.devices import device_memory, has_host_memory
from halcyon.step.device_use import Plan, plan_of, share_bytes, step_bytes
from halcyon.step.hlo.work import Rates
from halcyon.step.kept import kept_bytes
from halcyon.step.offload import is_on_host
from halcyon.step.program import Program, build_program
from halcyon_api.counting import size
from halcyon_api.elastic import possible_microbatches
from halcyon_api.hardware import TABLE
from halcyon_api.memory import least_need
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.spec.trainer import AUTOMATIC_OFFLOAD, AUTOMATIC_REMAT, Offload, Remat, TrainerSpec
from halcyon_api.training_run import TrainingRunSpec

USABLE = 0.92
"""Share of a device's memory that a step may need.

The rest is for batches made ahead, evaluations, and memory lost between arrays.
"""


@dataclass(frozen=True)
class Choice:
    """Values for the automatic fields of a run."""

    microbatches: int
    remat: Remat
    offload: Offload = "none"

    def document(self) -> dict[str, Any]:
        """The choice as JSON."""
        offload = {} if self.offload == "none" else {"offload": self.offload}
        return {"microbatches": self.microbatches, "remat": self.remat, **offload}

    @staticmethod
    def of(document: dict[str, Any]) -> Choice:
        """The choice of a document."""
        return Choice(document["microbatches"], document["remat"], document.get("offload", "none"))


def is_automatic(spec: TrainingRunSpec) -> bool:
    """Whether a run leaves a value to this module."""
    return "auto" in (spec.trainer.microbatches, spec.trainer.remat, spec.trainer.offload)


def with_choice(spec: TrainingRunSpec, choice: Choice) -> TrainingRunSpec:
    """The spec with the chosen values. Fields that are not automatic stay."""
    values = {
        each.name: getattr(choice, each.name) for each in fields(choice) if getattr(spec.trainer, each.name) == "auto"
    }
    return spec.model_copy(update={"trainer": spec.trainer.model_copy(update=values)})


def without_choice(spec: TrainingRunSpec, mesh: ResolvedMesh) -> TrainingRunSpec:
    """The spec for a task that does not train: a device computes one sequence at a time, and nothing is kept for a
    backward pass.
    """
    if not is_automatic(spec):
        return spec
    return with_choice(spec, Choice((possible_microbatches(spec.trainer, mesh.data_parallelism) or (1,))[-1], "none"))


def least_fitting(candidates: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The first candidate that fits, where all after a fitting one fit too. None: none fits. Asks for few of them."""
    if not candidates or fits(candidates[0]):
        return candidates[0] if candidates else None
    if len(candidates) == 1 or not fits(candidates[-1]):
        return None
    # The first does not fit, the last does.
    return candidates[bisect.bisect_left(candidates, True, 1, len(candidates) - 1, key=fits)]


def choose(
    microbatches: Sequence[int], policies: Sequence[Remat], offloads: Sequence[Offload], fits: Callable[[Choice], bool]
) -> Choice | None:
    """The first offload and policy with which some number of microbatches fits, with the least such number. None:
    nothing fits.

    Args:
        microbatches: Possible numbers, in rising order.
        policies: Possible remat policies, the one with the least recomputation first.
        offloads: Possible offloads, ``none`` first.
        fits: Whether a step fits into the memory of a device.
    """
    for offload, policy in itertools.product(offloads, policies):
        found = least_fitting(
            microbatches, lambda count, policy=policy, offload=offload: fits(Choice(count, policy, offload))
        )
        if found is not None:
            return Choice(found, policy, offload)
    return None


def chosen(
    spec: TrainingRunSpec,
    vocabulary: int,
    mesh: Mesh,
    memory_bytes: int | None,
    agreed: Callable[[bool], bool] = lambda fits: fits,
) -> tuple[Choice, CompiledStep | None]:
    """Choose the automatic values of a run.

    Args:
        spec: The run's spec.
        vocabulary: Number of tokens of the tokenizer.
        mesh: The device mesh.
        memory_bytes: Memory of a device. None: not known, and nothing is compiled.
        agreed: Process 0's answer, given this process's. A collective if there are several processes.

    Returns:
        The choice, and its compiled step, if it was compiled.

    Raises:
        BadConfiguration: No step fits into the memory.
    """
    resolved = ResolvedMesh(**dict(mesh.shape))
    given, policy = spec.trainer.microbatches, spec.trainer.remat
    counts = (possible_microbatches(spec.trainer, resolved.data_parallelism) or (1,)) if given == "auto" else (given,)
    policies = AUTOMATIC_REMAT if policy == "auto" else (policy,)
    offload, on_host = spec.trainer.offload, has_host_memory(mesh.local_devices)
    offloads = (offload,) if offload != "auto" else AUTOMATIC_OFFLOAD if on_host else ("none",)
    if memory_bytes is None:
        return Choice(counts[0], policies[0], offloads[0]), None
    usable = USABLE * memory_bytes
    needs: list[float] = []
    compiled: CompiledStep | None = None

    def fits(choice: Choice) -> bool:
        nonlocal compiled
        tried = with_choice(spec, choice)
        step, needed = None, least_need(tried, resolved).total_bytes
        if needed <= usable:  # else it need not be traced, and then not compiled, which takes far longer
            traced = traced_step(tried, vocabulary, mesh)
            needed = traced.least_bytes
            if needed <= usable:
                step = traced.compiled()
                needed = math.inf if step is None else step.needed_bytes
        needs.extend([] if needed in (None, math.inf) else [needed])
        fitting = agreed(needed is None or needed <= usable)
        if fitting:
            compiled = step  # the last one that fits is the choice
        return fitting

    found = choose(counts, policies, offloads, fits)
    if found is None:
        may = f"it may use {size(int(usable))} of the {size(memory_bytes)} of a device"
        if needs:
            least = int(min(needs))
            lacks = f"at least {size(least)}, and {may}: {size(least - int(usable))} are missing"
        else:
            lacks = f"more than the compiler accepts, and {may}"
        hosts = [] if not on_host or policy == "offload" else ["trainer.remat: offload"]
        hosts += ["trainer.offload: optimizer"] if on_host and offloads[-1] == "none" else []
        further = f", or set {' and '.join(hosts)}" if hosts else ""
        raise BadConfiguration(
            f"spec.trainer.microbatches: a step with {counts[-1]} microbatches and remat {policies[-1]} needs "
            f"{lacks}; give the run more devices, or shorter sequences{further}"
        )
    return found, compiled


@dataclass(frozen=True)
class CompiledStep:
    """The compiled step of a run, for its largest batch.

    Attributes:
        program: The run's program.
        step: The step.
        seconds: Seconds that the compiler took.
    """

    program: Program
    step: jax.stages.Compiled
    seconds: float

    @property
    def needed_bytes(self) -> int | None:
        """Memory that a device needs for it. None: not known."""
        return step_bytes(self.step)


@dataclass(frozen=True)
class TracedStep:
    """The traced step of a run, for its largest batch.

    Attributes:
        program: The run's program.
        traced: The step.
    """

    program: Program
    traced: jax.stages.Traced

    @property
    def least_bytes(self) -> int:
        """Memory that a device needs for it at least: for the state, and for what the forward pass keeps."""
        here = [leaf for leaf in jax.tree.leaves(self.program.template) if not is_on_host(leaf)]
        return share_bytes(here) + kept_bytes(self.traced.jaxpr.jaxpr) // self.program.mesh.size

    def compiled(self) -> CompiledStep | None:
        """Compile it. None: the compiler rejects it, because it needs too much memory."""
        lowered, began = self.program.lower(self.traced), time.perf_counter()
        try:
            step = self.program.compile(lowered)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                return None
            raise
        return CompiledStep(self.program, step, time.perf_counter() - began)


def traced_step(spec: TrainingRunSpec, vocabulary: int, mesh: Mesh) -> TracedStep:
    """Trace the step of a run without automatic fields."""
    program = build_program(spec, vocabulary, mesh)
    return TracedStep(program, program.trace_step(*largest_batch(spec.trainer)))


def planned(
    spec: TrainingRunSpec, vocabulary: int, mesh: Mesh, memory_bytes: int | None, rates: Rates | None = None
) -> tuple[Program, Plan]:
    """The program and the plan of a new run, for its largest batch. Compiles the step.

    Args:
        spec: The run's spec. Its automatic values are chosen.
        vocabulary: Number of tokens of the tokenizer.
        mesh: The device mesh.
        memory_bytes: Memory of a device. None: not known.
        rates: Speed of a device. None: not known.

    Raises:
        BadConfiguration: No step fits into the memory.
    """
    compiled: CompiledStep | None = None
    if is_automatic(spec):
        choice, compiled = chosen(spec, vocabulary, mesh, memory_bytes)
        spec = with_choice(spec, choice)
    compiled = compiled or traced_step(spec, vocabulary, mesh).compiled()
    if compiled is None:
        raise BadConfiguration(
            f"spec.trainer: the compiler finds no program for this step that fits into {size(memory_bytes or 0)}; set "
            "trainer.microbatches and trainer.remat to auto, or give the run more devices"
        )
    plan = plan_of(
        compiled.program,
        compiled.step,
        *largest_batch(spec.trainer),
        remat=spec.trainer.remat,
        memory_bytes=memory_bytes,
        rates=rates,
        compile_seconds=compiled.seconds,
    )
    return compiled.program, plan


def largest_batch(trainer: TrainerSpec) -> tuple[int, int]:
    """Batch size and sequence length of the steps with the most tokens."""
    return max(((stage.batch_size, stage.sequence_length) for stage in build_schedule(trainer).stages), key=math.prod)


def memory_of(spec: TrainingRunSpec) -> int | None:
    """Memory of a device, in bytes: as JAX reports it, else that of the accelerator type. None: not known."""
    return device_memory() or TABLE[spec.accelerator.type].memory_bytes
