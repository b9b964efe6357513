"""Profiles of windows of steps: a trace of host and devices, the memory of the devices, and the compiled step.

The loop waits for the step before the window and for the last step of it, so the trace holds whole steps. Each process profiles alone, so a
request to one process needs no agreement; a window of the document is the same on all processes. The files are stored in a background
thread. A failure is a warning: a profile never ends a run.
"""

from __future__ import annotations

import contextlib
import gzip
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax

from halcyon.context import Context
from halcyon.storage.failures import StoreFailure
from halcyon.telemetry import RunReporter
from halcyon.telemetry.diagnostics import KeptProfile, keep_profile
from halcyon_api.spec.operations import ProfileSpec

CLOSE_SECONDS = 60.0
"""Longest wait for the storage of a profile when the training ends."""
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

Keep = Callable[[int, Mapping[str, bytes], Mapping[str, Any]], KeptProfile]
"""Stores the files and the numbers of a profile that begins with a step."""


class Requests(Protocol):
    """Where profiles are requested."""

    def take(self) -> int | None:
        """The number of steps to profile now; None: no request."""
        ...


class Profiler:
    """Profiles windows of steps in one process. All calls but those of its own thread come from the loop.

    Args:
        spec: ``telemetry.profile`` of the run; None: only requests.
        requests: Requests while the run trains.
        process_index: Index of this process.
        keep: Stores a profile; called in a background thread.
        on_kept: Called in that thread with the first step, the number of steps, what was stored, and the numbers.
        on_failure: Called with one sentence if there is no profile.
    """

    def __init__(
        self,
        spec: ProfileSpec | None,
        requests: Requests,
        process_index: int,
        *,
        keep: Keep,
        on_kept: Callable[[int, int, KeptProfile, Mapping[str, Any]], object],
        on_failure: Callable[[str], object],
    ) -> None:
        self._spec, self._requests, self._process_index = spec, requests, process_index
        self._keep, self._on_kept, self._on_failure = keep, on_kept, on_failure
        self._first, self._last = 0, -1
        self._folder: Path | None = None
        self._began = 0.0
        self._thread: threading.Thread | None = None

    def start_due(self, step: int) -> bool:
        """Whether a profile begins with a step, counted from 1. The loop then waits for the step before it and calls `start`."""
        if self._folder is not None or (self._thread is not None and self._thread.is_alive()):
            return False
        steps = self._requests.take()
        if self._spec is not None and step == self._spec.at_step:
            steps = self._spec.steps
        if steps is None:
            return False
        self._first, self._last = step, step + steps - 1
        return True

    def start(self) -> None:
        """Begin the trace."""
        folder = Path(tempfile.mkdtemp(prefix="halcyon-profile-"))
        try:
            jax.profiler.start_trace(folder)
        except Exception as error:  # another part of the program may be tracing
            shutil.rmtree(folder, ignore_errors=True)
            self._fail(error)
            return
        self._folder, self._began = folder, time.perf_counter()

    @contextlib.contextmanager
    def around(self, step: int) -> Iterator[None]:
        """The context in which a step is dispatched: a trace shows it as one step."""
        if self._folder is None:
            yield
            return
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def stop_due(self, step: int, *, ends: bool = False) -> bool:
        """Whether the profile ends after a step. The loop then waits for the step and calls `stop`."""
        return self._folder is not None and (step >= self._last or ends)

    def stop(self, step: int, numbers: Mapping[str, Any], compiled: Any) -> None:
        """End the trace, and store it in the background.

        Args:
            step: The last step of the profile.
            numbers: The numbers of the process, for people.
            compiled: The compiled step.
        """
        folder, self._folder = self._folder, None
        if folder is None:
            return
        seconds = time.perf_counter() - self._began
        try:
            jax.profiler.stop_trace()
            memory = jax.profiler.device_memory_profile()
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            self._fail(error)
            return
        first, steps = self._first, step - self._first + 1
        own = {"process": self._process_index, "host": socket.gethostname(), "firstStep": first, "steps": steps, "windowSeconds": seconds}
        store = lambda: self._store(folder, first, steps, {**own, **numbers}, memory, compiled)  # noqa: E731
        self._thread = threading.Thread(target=store, name="halcyon-profile", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Drop a trace under way, and wait for the storage of the last one."""
        folder, self._folder = self._folder, None
        if folder is not None:
            with contextlib.suppress(Exception):
                jax.profiler.stop_trace()
            shutil.rmtree(folder, ignore_errors=True)
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _store(self, folder: Path, first: int, steps: int, numbers: dict[str, Any], memory: bytes, compiled: Any) -> None:
        try:
            files = {f"process-{self._process_index}.memory.pb.gz": memory, **self._traces(folder)}
            space = next((content for name, content in files.items() if name.endswith(".xplane.pb")), None)
            if space is not None:
                with contextlib.suppress(AttributeError, RuntimeError, ValueError):  # an earlier JAX cannot read its own traces
                    numbers["collectiveSeconds"] = collective_seconds(jax.profiler.ProfileData.from_serialized_xspace(space))
            if self._process_index == 0:
                files["step.hlo.txt.gz"] = gzip.compress((compiled.as_text() or "").encode(), 1)
            self._on_kept(first, steps, self._keep(first, files, numbers), numbers)
        except (OSError, StoreFailure, ValueError, RuntimeError, AttributeError) as error:
            self._fail(error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _traces(self, folder: Path) -> dict[str, bytes]:
        """The files that JAX wrote, under names that say which process they are of."""
        found: dict[str, bytes] = {}
        for path in sorted(folder.rglob("*")):
            if path.name.endswith(".xplane.pb"):
                found[f"plugins/profile/steps/process-{self._process_index}.xplane.pb"] = path.read_bytes()
            elif path.name.endswith(".trace.json.gz"):
                found[f"process-{self._process_index}.trace.json.gz"] = path.read_bytes()
        if not found:
            raise ValueError("JAX wrote no trace")
        return found

    def _fail(self, error: Exception) -> None:
        self._on_failure(f"there is no profile of the steps from {self._first} on: {error}")


def profiler_of(context: Context, reporter: RunReporter, requests: Requests) -> Profiler:
    """The profiler of a run, which stores its profiles below the checkpoint root."""
    spec, identity = context.run.spec, reporter.identity
    return Profiler(
        spec.telemetry.profile,
        requests,
        identity.process_index,
        keep=lambda step, files, numbers: keep_profile(spec.checkpoint, identity, step, files, numbers, timeout_seconds=CLOSE_SECONDS),
        on_kept=lambda step, steps, kept, numbers: reporter.profiled(step, steps, kept, numbers),
        on_failure=reporter.warning,
    )


def collective_seconds(space: Any) -> float:
    """Seconds that a line of a trace spends in collectives, which include the wait for other processes: the largest of all lines.

    Args:
        space: A `jax.profiler.ProfileData`.
    """
    longest = 0.0
    for plane in space.planes:
        for line in plane.lines:
            nanoseconds = sum(event.duration_ns for event in line.events if event.name.lstrip("%").startswith(_COLLECTIVES))
            longest = max(longest, nanoseconds / 1e9)
    return longest
