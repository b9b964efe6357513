"""Chooses ``microbatches: auto``, ``remat: auto`` and ``offload: auto``: the fastest step that fits into the memory of
a device.

The compiler says how much memory a step needs, so each candidate is compiled. The memory falls with the number of
microbatches, so a binary search over the possible numbers compiles few candidates. A microbatch repeats no computation,
but it gathers the parameters again. Policies are tried in the order of their recomputation: the first takes as many
microbatches as it needs, and a later one is compiled only if fewer of them may save more time than it recomputes. The
times are those of `halcyon plan`. Without the speeds of a device the first policy that fits is the choice. The host's
memory comes last: its copies take more time than both.
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from halcyon.data.batch_schedule import build_schedule
from halcyon.host.errors import BadConfiguration
from halcyon.models.flops import model_flops
from halcyon.parallel.devices import device_memory, has_host_memory
from halcyon.step.device_use import Plan, gradient_bytes, plan_of, share_bytes, step_bytes
from halcyon.step.hlo.work import Rates
from halcyon.step.kept import kept_bytes
from halcyon.step.offload import is_on_host
from halcyon.step.program import Program, build_program
from halcyon.step.speeds import rates_of
from halcyon.step.step_time import PlannedTime
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

_WORTH = 0.98
"""Share of the time of a step below which another one is worth its compilation."""


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

    def sentence(self) -> str:
        """The choice in words."""
        return ", ".join(f"{name} {value}" for name, value in self.document().items())

    @staticmethod
    def of(document: dict[str, Any]) -> Choice:
        """The choice of a document."""
        return Choice(document["microbatches"], document["remat"], document.get("offload", "none"))


def is_automatic(spec: TrainingRunSpec) -> bool:
    """Whether a run leaves a value to this module."""
    return "auto" in (spec.trainer.microbatches, spec.trainer.remat, spec.trainer.offload)


def with_choice(spec: TrainingRunSpec, choice: Choice) -> TrainingRunSpec:
    """The spec with the chosen values. Fields that are not automatic stay."""
    values = {name: value for name, value in vars(choice).items() if getattr(spec.trainer, name) == "auto"}
    return spec.but(trainer=spec.trainer.but(**values))


def without_choice(spec: TrainingRunSpec, mesh: ResolvedMesh) -> TrainingRunSpec:
    """The spec for a task that does not train: a device computes one sequence at a time, and nothing is kept for a
    backward pass.
    """
    if not is_automatic(spec):
        return spec
    return with_choice(spec, Choice(possible_microbatches(spec.trainer, mesh.data_parallelism)[-1], "none"))


_Candidate = TypeVar("_Candidate")


def least_fitting(candidates: Sequence[_Candidate], fits: Callable[[_Candidate], bool]) -> _Candidate | None:
    """The first candidate that fits, where all after a fitting one fit too. None: none fits. Asks for few of them."""
    if not candidates or fits(candidates[0]):
        return candidates[0] if candidates else None
    if len(candidates) == 1 or not fits(candidates[-1]):
        return None
    # The first does not fit, the last does.
    return candidates[bisect.bisect_left(candidates, True, 1, len(candidates) - 1, key=fits)]


def choose(
    microbatches: Sequence[int], policies: Sequence[Remat], offloads: Sequence[Offload], candidates: Candidates
) -> Choice | None:
    """The fastest choice with the first offload that fits. None: nothing fits.

    Args:
        microbatches: Possible numbers, in rising order.
        policies: Possible remat policies, the one with the least recomputation first.
        offloads: Possible offloads, ``none`` first.
        candidates: The steps.
    """
    best = None
    for offload in offloads:
        for policy in policies:
            of_policy = [Choice(count, policy, offload) for count in microbatches]
            if best is not None:
                fewer = [one for one in of_policy if one.microbatches < best.microbatches]
                of_policy = [one for one in fewer if candidates.may_be_faster(one, best)]
            found = least_fitting(of_policy, candidates.fits)
            if found is not None and (best is None or candidates.is_faster(found, best)):
                best = found
            if best is None and not candidates.fits(Choice(microbatches[-1], policies[-1], offload)):
                break  # the candidate that needs least does not fit, so no other one does
        if best is not None:
            break
    return best


@dataclass(eq=False)
class Candidates:
    """What is known of the steps of a run, which are compiled.

    Args:
        spec: The run's spec.
        vocabulary: Number of tokens of the tokenizer.
        mesh: The device mesh.
        usable: Memory of a device that a step may need.
        rates: Speed of a device. None: not known.
        agreed: See `chosen`.
        doing: See `chosen`.
        policies: The remat policies.
    """

    spec: TrainingRunSpec
    vocabulary: int
    mesh: Mesh
    usable: float
    rates: Rates | None
    agreed: Callable[[bool], bool]
    doing: Callable[[str], None]
    policies: Sequence[Remat]

    def __post_init__(self) -> None:
        self._best = self._least = None
        self._times: dict[Choice, PlannedTime | None] = {}
        self._answers: dict[Choice, bool] = {}
        self.steps: dict[Choice, CompiledStep | None] = {}
        """The last step that fits, the best one, and the one that needs least."""
        self.needs: list[int] = []
        """What the candidates need, where it is known."""

    def fits(self, one: Choice) -> bool:
        """Whether a step fits into the memory of a device."""
        if one in self._answers:
            return self._answers[one]
        later = self.policies[self.policies.index(one.remat) + 1 :]
        self.doing(one.sentence() + (f"; left: remat {', '.join(later)}" if later else ""))
        if one.remat == self.policies[-1]:
            self._least = one
        tried = with_choice(self.spec, one)
        step, needed = None, least_need(tried, ResolvedMesh(**dict(self.mesh.shape))).total_bytes
        if needed <= self.usable:  # else it need not be traced, and then not compiled, which takes far longer
            traced = traced_step(tried, self.vocabulary, self.mesh)
            needed = traced.least_bytes
            if needed <= self.usable:
                step = traced.compiled()
                needed = math.inf if step is None else step.needed_bytes
        if needed is not None and needed < math.inf:
            self.needs.append(int(needed))
        fitting = self.agreed(needed is None or needed <= self.usable)
        self._answers[one] = fitting
        if fitting:
            keep = (self._best, self._least)
            self.steps = {known: at for known, at in self.steps.items() if known in keep} | {one: step}
        return fitting

    def may_be_faster(self, one: Choice, best: Choice) -> bool:
        """Whether a step that was not compiled may take less time than the best one."""
        self._best = best
        time = self._time(best)
        may = time is not None and time.least_with(one.microbatches, one.remat) < _WORTH * time.step.seconds
        return self.agreed(may)

    def is_faster(self, one: Choice, best: Choice) -> bool:
        """Whether a step that fits takes less time than the best one."""
        time, before = self._time(one), self._time(best)
        faster = time is not None and before is not None and time.step.seconds < before.step.seconds
        return self.agreed(faster)

    def _time(self, one: Choice) -> PlannedTime | None:
        """The time of a step that fits. None: it is not known."""
        if one not in self._times:
            step = self.steps.get(one)
            self._times[one] = step and self.rates and self._planned(one, step, self.rates)
        return self._times[one]

    def _planned(self, one: Choice, step: CompiledStep, rates: Rates) -> PlannedTime | None:
        spec = with_choice(self.spec, one)
        try:
            plan = step.plan(spec.trainer, None, rates)
        except (KeyError, ValueError):  # another XLA may write its programs in another way
            return None
        template, length = step.program.template.model, plan.sequence_length
        flops = model_flops(spec, template, self.vocabulary, length=length, trained=step.program.trained)
        return PlannedTime(plan, flops, rates)


def chosen(
    spec: TrainingRunSpec,
    vocabulary: int,
    mesh: Mesh,
    memory_bytes: int | None,
    rates: Rates | None = None,
    agreed: Callable[[bool], bool] = lambda answer: answer,
    doing: Callable[[str], None] = lambda what: None,
) -> tuple[Choice, CompiledStep | None]:
    """Choose the automatic values of a run.

    Args:
        spec: The run's spec.
        vocabulary: Number of tokens of the tokenizer.
        mesh: The device mesh.
        memory_bytes: Memory of a device. None: not known, and nothing is compiled.
        rates: Speed of a device (`own_rates`). None: not known, and the first policy that fits is chosen.
        agreed: Process 0's answer, given this process's. A collective if there are several processes.
        doing: Called with each candidate before it is compiled, as words.

    Returns:
        The choice, and its compiled step, if it was compiled.

    Raises:
        BadConfiguration: No step fits into the memory.
    """
    resolved = ResolvedMesh(**dict(mesh.shape))
    given, policy = spec.trainer.microbatches, spec.trainer.remat
    counts = possible_microbatches(spec.trainer, resolved.data_parallelism) if given == "auto" else (given,)
    policies = AUTOMATIC_REMAT if policy == "auto" else (policy,)
    offload, on_host = spec.trainer.offload, has_host_memory(mesh.local_devices)
    offloads = (offload,) if offload != "auto" else AUTOMATIC_OFFLOAD if on_host else ("none",)
    if memory_bytes is None:
        return Choice(counts[0], policies[0], offloads[0]), None
    usable = USABLE * memory_bytes
    candidates = Candidates(spec, vocabulary, mesh, usable, rates, agreed, doing, policies)
    found = choose(counts, policies, offloads, candidates)
    if found is None:
        may = f"it may use {size(int(usable))} of the {size(memory_bytes)} of a device"
        if candidates.needs:
            least = min(candidates.needs)
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
    return found, candidates.steps[found]


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

    def plan(self, trainer: TrainerSpec, memory_bytes: int | None, rates: Rates | None) -> Plan:
        """How it uses the devices.

        Args:
            trainer: ``spec.trainer``, without automatic fields.
            memory_bytes: Memory of a device. None: not known.
            rates: Speed of a device. None: not known.
        """
        return plan_of(
            self.program,
            self.step,
            *largest_batch(trainer),
            remat=trainer.remat,
            memory_bytes=memory_bytes,
            rates=rates,
            compile_seconds=self.seconds,
        )


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
        """Memory that a device needs for it at least: for the state, for what its loops keep, and for the sum of the
        gradients of microbatches.
        """
        here = [leaf for leaf in jax.tree.leaves(self.program.template) if not is_on_host(leaf)]
        summed = gradient_bytes(self.program) if self.program.microbatches > 1 else 0
        return share_bytes(here) + summed + kept_bytes(self.traced.jaxpr.jaxpr) // self.program.mesh.size

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
    spec: TrainingRunSpec,
    vocabulary: int,
    mesh: Mesh,
    memory_bytes: int | None,
    rates: Rates | None = None,
    doing: Callable[[str], None] = lambda what: None,
) -> tuple[Program, Plan]:
    """The program and the plan of a new run, for its largest batch. Compiles the step.

    Args:
        spec: The run's spec. Its automatic values are chosen.
        vocabulary: Number of tokens of the tokenizer.
        mesh: The device mesh.
        memory_bytes: Memory of a device. None: not known.
        rates: Speed of a device. None: not known.
        doing: See `chosen`.

    Raises:
        BadConfiguration: No step fits into the memory.
    """
    compiled = None
    if is_automatic(spec):
        choice, compiled = chosen(spec, vocabulary, mesh, memory_bytes, own_rates(spec, mesh), doing=doing)
        spec = with_choice(spec, choice)
    compiled = compiled or traced_step(spec, vocabulary, mesh).compiled()
    if compiled is None:
        raise BadConfiguration(
            f"spec.trainer: the compiler finds no program for this step that fits into {size(memory_bytes or 0)}; set "
            "trainer.microbatches and trainer.remat to auto, or give the run more devices"
        )
    return compiled.program, compiled.plan(spec.trainer, memory_bytes, rates)


def largest_batch(trainer: TrainerSpec) -> tuple[int, int]:
    """Batch size and sequence length of the steps with the most tokens."""
    return max(
        ((period.batch_size, period.sequence_length) for period in build_schedule(trainer).periods), key=math.prod
    )


def own_rates(spec: TrainingRunSpec, mesh: Mesh) -> Rates | None:
    """Speed of the devices of a mesh. None: not known, as on this processor, also in place of an accelerator: its
    programs do not have the times of one.
    """
    if mesh.devices.flat[0].platform == "cpu":
        return None
    return rates_of(spec.accelerator, mesh.shape["replica"])


def memory_of(spec: TrainingRunSpec) -> int | None:
    """Memory of a device, in bytes: as JAX reports it, else that of the accelerator type. None: not known."""
    return device_memory() or TABLE[spec.accelerator.type].memory_bytes
