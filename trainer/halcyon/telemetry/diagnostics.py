"""Diagnostics below the checkpoint root, which outlive the pod: profiles, and stacks of hung processes. All are
bounded.

``profiles/STEP.ATTEMPT.RESTART/`` holds, for each process, the trace for Perfetto (``process-N.trace.json.gz``), the
memory of its devices (``process-N.memory.pb.gz``, for pprof) and its numbers (``process-N.json``);
``plugins/profile/steps/`` holds the traces for XProf, which opens the folder; ``step.hlo.txt.gz`` is the compiled step.
``diagnostics/`` holds the stacks, which people read and no program does.
"""

import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halcyon.host.clock import microseconds
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store
from halcyon.telemetry.log_line import RunIdentity
from halcyon.telemetry.state import State
from halcyon_api.spec.checkpoint import CheckpointSpec

PROFILES_PREFIX = "profiles/"
KEPT_PROFILES = 4
"""Keep the newest profiles; process 0 deletes the others."""
MAX_FILE_BYTES = 256 << 20

STACKS_PREFIX = "diagnostics/"
KEPT_RESTARTS = 8
"""Keep the stacks of this number of newest restarts."""
MAX_STACKS_BYTES = 1 << 20

_STACKS = re.compile(r"hung-(\d+)\.(\d+)-(\d+)\.txt")
_PROFILE = re.compile(r"(\d{12})\.(\d+)\.(\d+)/")
_NUMBERS = re.compile(r"process-(\d+)\.json")
_CLEARLY_LESS = 0.5
"""A process whose time in collectives is less than this share of the median waits for nobody: the others wait for it.
"""
_NOTABLE = 0.05
"""Time in collectives below this share of a step says nothing."""

MFU_FORMULA = "tokensPerSecond x flopsPerToken / peakFlopsPerSecond"
"""Model FLOPs utilisation (Chowdhery et al. 2022, PaLM, appendix B): all devices of the run together."""
_PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class KeptProfile:
    """A profile that was stored."""

    path: str
    size_bytes: int
    left_out: tuple[str, ...]
    """Files that were too large."""


def keep_profile(
    spec: CheckpointSpec,
    identity: RunIdentity,
    step: int,
    files: Mapping[str, bytes],
    numbers: Mapping[str, Any],
    *,
    timeout_seconds: float,
) -> KeptProfile:
    """Store the profile of one process. Process 0 also deletes the oldest profiles.

    Args:
        spec: The checkpoint root.
        identity: The process.
        step: First step of the profile, counted from 1.
        files: Contents by name below the folder.
        numbers: The numbers of the process, as JSON.
        timeout_seconds: Longest wait for a request.

    Raises:
        StoreFailure: A file could not be written.
    """
    store = Store(spec, timeout_seconds=timeout_seconds)
    folder = f"{PROFILES_PREFIX}{step:012d}.{identity.attempt}.{identity.restart}/"
    small = {name: content for name, content in files.items() if len(content) <= MAX_FILE_BYTES}
    for name, content in small.items():
        store.write(f"{folder}{name}", content)
    store.write(f"{folder}process-{identity.process_index}.json", json.dumps(dict(numbers), indent=2).encode())
    if identity.process_index == 0:
        with contextlib.suppress(StoreFailure):  # the next profile tries again
            for old in profile_folders(store)[:-KEPT_PROFILES]:
                store.delete_prefix(old)
    return KeptProfile(
        f"{store.root}/{folder}", sum(map(len, small.values())), tuple(sorted(files.keys() - small.keys()))
    )


def profile_folders(store: Store) -> list[str]:
    """The folders of a root's profiles, oldest first by attempt, restart and step."""
    keys = (key.removeprefix(PROFILES_PREFIX) for key in store.list(PROFILES_PREFIX))
    places = {match[0]: (int(match[2]), int(match[3]), int(match[1])) for key in keys if (match := _PROFILE.match(key))}
    return [f"{PROFILES_PREFIX}{name}" for name in sorted(places, key=lambda name: places[name])]


def profile_numbers(store: Store, folder: str) -> dict[int, dict[str, Any]]:
    """The numbers of each process of a profile, by index; those that cannot be read are left out."""
    numbers: dict[int, dict[str, Any]] = {}
    for key in store.list(folder):
        match = _NUMBERS.fullmatch(key.removeprefix(folder))
        with contextlib.suppress(ValueError):
            document = json.loads(store.read(key).data or b"") if match else None
            if match and isinstance(document, dict):
                numbers[int(match[1])] = document
    return dict(sorted(numbers.items()))


def slow_processes(collective_seconds: Mapping[int, float], window_seconds: float) -> Sequence[int]:
    """The processes that the others wait for.

    In a step that is divided over processes, each waits in its collectives for the slowest. So the slowest process is
    the one that spends the least time in collectives.

    Args:
        collective_seconds: Seconds in collectives during the profile, by process.
        window_seconds: Duration of the profile.
    """
    if len(collective_seconds) < 2:
        return ()
    median = sorted(collective_seconds.values())[len(collective_seconds) // 2]
    if median < _NOTABLE * window_seconds:
        return ()
    return tuple(sorted(process for process, seconds in collective_seconds.items() if seconds < _CLEARLY_LESS * median))


def keep_stacks(spec: CheckpointSpec, identity: RunIdentity, stacks: str, *, timeout_seconds: float) -> str:
    """Write the stacks of a hung process. Process 0 also deletes those of old process groups.

    Returns:
        The file's address.

    Raises:
        StoreFailure: The file could not be written.
    """
    store = Store(spec, timeout_seconds=timeout_seconds)
    key = f"{STACKS_PREFIX}hung-{identity.attempt}.{identity.restart}-{identity.process_index}.txt"
    store.write(key, stacks.encode(errors="replace")[:MAX_STACKS_BYTES])
    if identity.process_index == 0:
        with contextlib.suppress(StoreFailure):  # the next hung process tries again
            named = {one: _STACKS.fullmatch(one.removeprefix(STACKS_PREFIX)) for one in store.list(STACKS_PREFIX)}
            groups = {one: (int(match[1]), int(match[2])) for one, match in named.items() if match}
            old = sorted(set(groups.values()))[:-KEPT_RESTARTS]
            for one in (one for one, group in groups.items() if group in old):
                store.delete(one)
    return f"{store.root}/{key}"


def speed(state: State) -> dict[str, Any]:
    """The speed of a process, as JSON: percentiles of the last steps of one size, MFU, and seconds by cause."""
    numbers: dict[str, Any] = {
        "stepSeconds": percentiles(state.steps_in_progress[0]),
        "tokensPerSecond": state.tokens_per_second,
        "flopsPerToken": state.flops_per_token,
        "peakFlopsPerSecond": state.run_plan.peak_flops_per_second,
        "dataWaitSeconds": microseconds(state.data_wait_seconds),
        "secondsByCause": state.seconds.model_dump(by_alias=True),
    }
    return numbers if state.mfu is None else {**numbers, "mfu": state.mfu, "mfuFormula": MFU_FORMULA}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """The durations that 50, 90 and 99 % of the steps do not exceed (nearest rank), and the number of steps; empty
    without steps.
    """
    ordered = sorted(seconds)
    if not ordered:
        return {}
    ranks = {f"p{share}": microseconds(ordered[math.ceil(len(ordered) * share / 100) - 1]) for share in _PERCENTILES}
    return {**ranks, "count": len(ordered)}


def step_percentiles(numbers: Mapping[str, Any]) -> dict[str, float]:
    """The percentiles of `speed`, as fields of the event ``profiled``."""
    ranks: Mapping[str, float] = numbers.get("stepSeconds") or {}
    return {f"step_seconds_{name}": value for name, value in ranks.items() if name != "count"}
