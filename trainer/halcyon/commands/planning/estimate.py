"""The numbers of a plan: memory, the time of a step and what bounds it, checkpoints, goodput, money and the end. Pure.

Each number says what it is based on: ``compiled for …`` numbers are read off the compiled step, ``computed`` ones
follow from the document and the facts of the hardware, ``assumed`` ones need an assumption
(`halcyon.commands.planning.assumptions`).
"""

import datetime as dt
from dataclasses import dataclass
from typing import Any

from halcyon.checkpoint.save_schedule import best_interval
from halcyon.commands.planning.assumptions import Assumptions
from halcyon.commands.planning.vocabulary import Vocabulary
from halcyon.models.flops import ModelFlops
from halcyon.step.device_use import Plan
from halcyon.step.hlo.work import Rates
from halcyon.step.step_time import StepTime, step_time
from halcyon_api.counting import counted
from halcyon_api.hardware import PRICES
from halcyon_api.spec.accelerator import Provisioning
from halcyon_api.spec.checkpoint import MemorySpec

_DAY = 86_400.0
_MFU = "hidden positions and gradients of frozen weights do not count, and products in 8 bits count half"
_FEWEST_STOPS = 0.001
"""Stops in a day below which a rate counts as this one: fewer change nothing that a run notices."""


@dataclass(frozen=True)
class Number:
    """One number of a plan.

    Attributes:
        name: What it is.
        value: Its value. None: not known, and `note` says why.
        unit: ``bytes``, ``seconds``, ``FLOPs``, ``share``, ``tokens``, ``chip-hours``, ``money``, ``date`` or empty.
        basis: What it is based on.
        note: A few words more.
    """

    name: str
    value: float | str | None
    unit: str
    basis: str
    note: str = ""

    def document(self) -> dict[str, Any]:
        """The number as JSON."""
        found = {"value": self.value, "unit": self.unit or None, "basis": self.basis, "note": self.note or None}
        return {name: value for name, value in found.items() if value is not None or name == "value"}


@dataclass(frozen=True)
class Run:
    """What the estimate needs of a run, besides its compiled step.

    Attributes:
        tokens: Its tokens.
        flops: The operations of its model.
        vocabulary: The tokens of its tokenizer.
        compiled_for: What its step was compiled for: the accelerator type, or ``a processor``.
        own_kernel: Whether the hardware computes attention by a kernel that the compiled program does not have, because
            it was compiled for another platform.
        state_bytes: Size of a checkpoint.
        devices: Its devices.
        chips: Its chips.
        hosts: Its hosts.
        provisioning: How its hardware is provisioned.
        list_price: List price of a chip-hour. None: not known.
        exact: See `Assumptions.shares`.
        in_place: ``recovery.inPlace``.
        memory: ``checkpoint.memory``.
        sampled: Most tokens of a step that other runs sample (`objective.policy.sampledBy`).
    """

    tokens: int
    flops: ModelFlops
    vocabulary: Vocabulary
    compiled_for: str
    own_kernel: bool
    state_bytes: int
    devices: int
    chips: int
    hosts: int
    provisioning: Provisioning
    list_price: float | None = None
    exact: bool = False
    in_place: bool = False
    memory: MemorySpec | None = None
    sampled: int = 0

    @property
    def compiled(self) -> str:
        """The basis of numbers of the compiled step."""
        return f"compiled for {self.compiled_for}"


@dataclass(frozen=True)
class Goodput:
    """What preemption and failures leave of a run.

    Attributes:
        stops_per_day: Stops of the whole run in a day.
        interval_seconds: The best time between two saves.
        lost_seconds: Work that a stop loses, on average.
        down_seconds: Time from a stop to the next step.
        goodput: Share of the time that is in steps which are kept.
        snapshot_seconds: Time between two snapshots in memory. None: there are none.
    """

    stops_per_day: float
    interval_seconds: float
    lost_seconds: float
    down_seconds: float
    goodput: float
    snapshot_seconds: float | None = None


def goodput(
    *,
    stops_per_day: float,
    blocked_seconds: float,
    save_seconds: float,
    down_seconds: float,
    copy_seconds: float | None = None,
    snapshot_seconds: float | None = None,
) -> Goodput:
    """The goodput at a rate of stops, with saves at the best interval.

    Args:
        stops_per_day: Stops of the whole run in a day.
        blocked_seconds: Time for which a save, or a snapshot in memory, blocks the loop.
        save_seconds: Time from the start of a save to its commit.
        down_seconds: Time from a stop to the next step.
        copy_seconds: Time from the start of a snapshot until another host has it. None: there are no snapshots.
        snapshot_seconds: Time between two snapshots. None: the best one, at most 1 % of the time (`MemorySpec`).
    """
    mean = _DAY / max(stops_per_day, _FEWEST_STOPS)
    interval = best_interval(blocked_seconds, mean, save_seconds)
    blocked = blocked_seconds / interval
    # What is lost: the steps since the newest checkpoint that was complete, or since the newest snapshot.
    lost = interval / 2 + save_seconds
    if copy_seconds is not None:
        snapshot_seconds = snapshot_seconds or max(
            best_interval(blocked_seconds, mean, copy_seconds), blocked_seconds / 0.01
        )
        lost = min(lost, snapshot_seconds / 2 + copy_seconds)
        blocked += blocked_seconds / snapshot_seconds
    useful = (1 - min(1.0, blocked)) / (1 + (lost + down_seconds) / mean)
    return Goodput(
        stops_per_day, interval, lost, down_seconds, useful, snapshot_seconds if copy_seconds is not None else None
    )


@dataclass(frozen=True)
class Estimate:
    """The numbers of a run.

    Attributes:
        sections: The numbers by the title of their section.
        step: The time of a step. None: the device's speed is not known.
        missing_bytes: Memory that a device lacks. 0: the step fits, or that is not known.
    """

    sections: dict[str, tuple[Number, ...]]
    step: StepTime | None
    missing_bytes: int

    @property
    def fits(self) -> bool | None:
        """Whether the step fits into a device. None: the memory of one of them is not known."""
        memory = (self.value("memory of a device", name) for name in ("the whole step", "there is"))
        return None if None in memory else not self.missing_bytes

    def value(self, section: str, name: str) -> float | None:
        """A number of a section. None: there is none, or it is not known."""
        found = next((one.value for one in self.sections.get(section, ()) if one.name == name), None)
        return found if isinstance(found, int | float) else None

    def document(self) -> dict[str, Any]:
        """The numbers as JSON."""
        return {title: {one.name: one.document() for one in numbers} for title, numbers in self.sections.items()} | {
            "parts": [] if self.step is None else [vars(part) for part in self.step.parts]
        }


def estimate(plan: Plan, run: Run, rates: Rates | None, assumed: Assumptions, now: dt.datetime) -> Estimate:
    """The numbers of a run.

    Args:
        plan: Its compiled step.
        run: The run.
        rates: Speed of a device. None: not known.
        assumed: What is assumed.
        now: When the run starts.
    """
    step = (
        None
        if rates is None or not plan.work
        else step_time(plan, run.flops, rates, assumed.shares(exact=run.exact), own_kernel=run.own_kernel)
    )
    memory, missing = _memory(plan, run.compiled)
    basis = "assumed" if run.vocabulary.note else "computed"
    sections: dict[str, tuple[Number, ...]] = {
        "model": (Number("vocabulary", run.vocabulary.tokens, "tokens", basis, run.vocabulary.note),),
        "memory of a device": memory,
    }
    if step is not None:
        sections["step"] = _step(step, run, plan, assumed, rates)
    restore = run.state_bytes / run.hosts / assumed.store
    blocked = run.state_bytes / run.devices / assumed.host_copy
    sections["checkpoint"] = (
        Number("size", run.state_bytes, "bytes", "computed"),
        Number("a save blocks the steps for", blocked, "seconds", "assumed"),
        Number("time to save", restore + blocked, "seconds", "assumed"),
        Number("time to restore", restore, "seconds", "assumed"),
    )
    copy = run.state_bytes / run.hosts / assumed.snapshots + blocked
    every = run.memory.every_steps if run.memory is not None else None

    def with_stops(*, in_place: bool) -> Goodput:
        memory = in_place and run.memory is not None
        return goodput(
            stops_per_day=assumed.stops_of_host(run.provisioning) * run.hosts,
            blocked_seconds=blocked,
            save_seconds=restore + blocked,
            down_seconds=assumed.mean_restart(run.provisioning, in_place=in_place) + (copy if memory else restore),
            copy_seconds=copy if memory else None,
            snapshot_seconds=every * step.seconds if every is not None and step is not None else None,
        )

    useful, other = with_stops(in_place=run.in_place), with_stops(in_place=not run.in_place)
    otherwise = f"with recovery.inPlace: {str(not run.in_place).lower()}"
    sections["stops"] = (
        Number("stops a day", useful.stops_per_day, "", "assumed", f"{counted(run.hosts, 'host')}, {run.provisioning}"),
        Number("best time between saves", useful.interval_seconds, "seconds", "assumed"),
        *(
            (Number("time between snapshots in memory", useful.snapshot_seconds, "seconds", "assumed"),)
            if useful.snapshot_seconds is not None
            else ()
        ),
        Number("work that a stop loses", useful.lost_seconds, "seconds", "assumed"),
        Number(
            "from a stop to the next step",
            useful.down_seconds,
            "seconds",
            "assumed",
            f"{in_words(other.down_seconds)} {otherwise}",
        ),
        Number("goodput", useful.goodput, "share", "assumed", f"{other.goodput:.1%} {otherwise}"),
    )
    if step is not None:
        sections["run"] = _whole(step, run.tokens / plan.tokens, run, useful.goodput, assumed, now)
    return Estimate(sections, step, missing)


def _memory(plan: Plan, compiled: str) -> tuple[tuple[Number, ...], int]:
    memory = plan.memory
    rows = [
        Number("parameters", memory.parameters, "bytes", "computed"),
        Number("optimizer state", memory.optimizer - memory.offloaded, "bytes", "computed"),
        Number("gradients", memory.gradients, "bytes", "computed"),
        Number("activations and temporary arrays", memory.activations, "bytes", compiled),
        Number("the whole step", memory.step, "bytes", compiled),
        Number("there is", memory.available, "bytes", "computed"),
    ]
    if on_host := memory.offloaded + memory.kept_on_host:
        rows.insert(2, Number("in the memory of the host", on_host, "bytes", compiled))
    if memory.step is None or memory.available is None:
        return tuple(rows), 0
    spare = memory.available - memory.step
    rows.append(Number("left" if spare >= 0 else "missing", abs(spare), "bytes", compiled))
    return tuple(rows), max(0, -spare)


def _step(step: StepTime, run: Run, plan: Plan, assumed: Assumptions, rates: Rates | None) -> tuple[Number, ...]:
    share = assumed.uncertainty
    range_of = f"{in_words(step.seconds * (1 - share))} to {in_words(step.seconds * (1 + share))}"
    rows = [
        Number("model FLOPs of a step", float(plan.tokens * run.flops.per_token), "FLOPs", "computed"),
        Number("time on ideal devices", step.ideal_seconds, "seconds", run.compiled),
        Number("MFU, at most", step.ceiling, "share", run.compiled, _MFU),
        Number("time of a step", step.seconds, "seconds", "assumed", f"{range_of}; bound by {step.bound}"),
        Number("MFU", step.mfu, "share", "assumed"),
        Number("tokens a day", plan.tokens / step.seconds * _DAY, "tokens", "assumed"),
    ]
    if run.sampled:
        note = "a second, of all samplers together: with fewer the run waits"
        rows.append(Number("samplers need, at most", run.sampled / step.seconds, "tokens", "assumed", note))
    if rates is not None and rates.network is not None:
        note = "a second to other hosts or slices, of Google's machine; --assume device-network=NUMBER has another one"
        rows.append(Number("network of a device", rates.network, "bytes", "computed", note))
    if plan.compile_seconds is not None:
        rows.append(Number("time to compile, on this machine", plan.compile_seconds, "seconds", run.compiled))
    return tuple(rows)


def _whole(
    step: StepTime, steps: float, run: Run, useful: float, assumed: Assumptions, now: dt.datetime
) -> tuple[Number, ...]:
    seconds = steps * step.seconds / useful
    hours = seconds / 3600 * run.chips
    price = run.list_price if assumed.price is None else assumed.price
    note = ""
    if price is None:
        note = "give the price of a chip-hour: --assume price=NUMBER"
    elif assumed.price is None:
        note = f"${price:.2f} a chip-hour, {PRICES}; set spec.accelerator.pricePerChipHour to yours"
    try:
        end = (now + dt.timedelta(seconds=seconds)).isoformat(timespec="minutes")
    except OverflowError:
        end = None
    return (
        Number("time of the run", seconds, "seconds", "assumed", "without evaluations"),
        Number("end", end, "date", "assumed", "" if end else "after the year 9999"),
        Number("chip-hours", hours, "chip-hours", "assumed", counted(run.chips, "chip")),
        Number("cost", None if price is None else hours * price, "money", "assumed", note),
    )


def in_words(value: float) -> str:
    """Seconds in words."""
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
