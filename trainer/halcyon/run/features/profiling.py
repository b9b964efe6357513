"""Profiles of windows of steps: a trace of host and devices, the memory of the devices, and the compiled step.

The loop waits for the step before the window and for the last step of it, so the trace holds whole steps. Each process
profiles alone, so a request to one process needs no agreement; a window of the document is the same on all processes.
The files are stored in a background thread. A failure is a warning: a profile never ends a run.
"""

import contextlib
import gzip
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import jax

from halcyon.host.storage.failures import StoreFailure
from halcyon.run.callback import Callback, Settle
from halcyon.run.setup import Setup
from halcyon.telemetry.diagnostics import keep_profile, speed, step_percentiles
from halcyon_api.spec.telemetry import ProfileSpec

CLOSE_SECONDS = 60.0
"""Longest wait for the storage of a profile when the training ends."""
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Profiler(Callback):
    """Profiles windows of steps in one process.

    Args:
        spec: ``spec.telemetry.profile``.
        setup: The training. Its profiles are stored below its checkpoint root.
    """

    def __init__(self, spec: ProfileSpec | None, setup: Setup) -> None:
        place = setup.place
        self._spec, self._steps, self._root = spec, place.spec.trainer.steps, place.spec.checkpoint
        self._reporter, self._process_index = place.reporter, place.processes.process_index
        self._programs, self._requests = setup.programs, setup.profile_requests
        self._first, self._last = 0, -1
        self._folder = None
        self._began = 0.0
        self._thread = None

    def before(self, step: int, settle: Settle) -> None:
        """Begin a trace before the first step of a window."""
        if self._folder is not None or (self._thread is not None and self._thread.is_alive()):
            return
        steps = self._requests.take()
        if self._spec is not None and step == self._spec.at_step:
            steps = self._spec.steps
        if steps is None:
            return
        self._first, self._last = step, step + steps - 1
        settle()
        folder = Path(tempfile.mkdtemp(prefix="halcyon-profile-"))
        try:
            jax.profiler.start_trace(folder)
        except Exception as error:  # another part of the program may be tracing
            shutil.rmtree(folder, ignore_errors=True)
            self._fail(error)
            return
        self._folder, self._began = folder, time.perf_counter()

    def dispatched(self, step: int, settle: Settle) -> None:
        """End the trace after the last step of the window or of the run, and store it in the background."""
        folder = self._folder
        if folder is None or (step < self._last and step != self._steps):
            return
        settle()
        self._folder = None
        seconds = time.perf_counter() - self._began
        try:
            jax.profiler.stop_trace()
            memory = jax.profiler.device_memory_profile()
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            self._fail(error)
            return
        first, steps, compiled = self._first, step - self._first + 1, self._programs.newest
        numbers = {
            "process": self._process_index,
            "host": socket.gethostname(),
            "firstStep": first,
            "steps": steps,
            "windowSeconds": seconds,
            **speed(self._reporter.observe()),
        }
        work = (folder, first, steps, numbers, memory, compiled)
        self._thread = threading.Thread(target=self._store, args=work, name="halcyon-profile", daemon=True)
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

    def _store(
        self, folder: Path, first: int, steps: int, numbers: dict[str, Any], memory: bytes, compiled: Any
    ) -> None:
        try:
            files = {f"process-{self._process_index}.memory.pb.gz": memory, **self._traces(folder)}
            space = next((content for name, content in files.items() if name.endswith(".xplane.pb")), None)
            if space is not None:
                with contextlib.suppress(
                    AttributeError, RuntimeError, ValueError
                ):  # an earlier JAX cannot read its own traces
                    numbers["collectiveSeconds"] = collective_seconds(
                        jax.profiler.ProfileData.from_serialized_xspace(space)
                    )
            if self._process_index == 0:
                files["step.hlo.txt.gz"] = gzip.compress((compiled.as_text() or "").encode(), 1)
            kept = keep_profile(
                self._root, self._reporter.identity, first, files, numbers, timeout_seconds=CLOSE_SECONDS
            )
            self._reporter.event(
                "profiled",
                kept,
                step=first,
                steps=steps,
                mfu=numbers.get("mfu"),
                **step_percentiles(numbers),
            )
            if kept.left_out:
                left_out = ", ".join(kept.left_out)
                self._reporter.warning(f"the profile of step {first} lacks {left_out}, because they are too large")
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
        self._reporter.warning(f"there is no profile of the steps from {self._first} on: {error}")


def collective_seconds(space: Any) -> float:
    """Seconds that a line of a trace spends in collectives, which include the wait for other processes: the largest of
    all lines.

    Args:
        space: A `jax.profiler.ProfileData`.
    """
    lines = (
        sum(event.duration_ns for event in line.events if event.name.lstrip("%").startswith(_COLLECTIVES)) / 1e9
        for plane in space.planes
        for line in plane.lines
    )
    return max(lines, default=0.0)
