"""Joining and leaving the world: all processes of a run, connected by JAX's coordination service.

Process 0 runs the service. Every process knows its index and the count from the operator; nothing is detected. A dead process must take
the others with it at once, for the JobSet restarts the world as a whole: a lifeline tells them within milliseconds (see
`halcyon.parallel.lifeline`), and the coordination service ends them in the cases that a lifeline cannot see, once the silent one has
missed its heartbeats.

After `join` a process must end through `leave`, whatever happened: the service waits at its shutdown for the processes that are
still alive, and so an interpreter that simply exits may wait for a peer that is waiting for it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from halcyon.errors import BadConfiguration, TrainerExit
from halcyon.parallel.lifeline import Lifeline, OnLoss, end_process
from halcyon.parallel.rendezvous import NoCoordinator, resolve, split_address, wait_until_listening

JOIN_TIMEOUT_SECONDS = 1800
"""Others may still wait for a machine. How long that may last is for the operator to decide; this is for when it does not."""
HEARTBEAT_TIMEOUT_SECONDS = 15
LEAVE_TIMEOUT_SECONDS = 10

_GRACE_SECONDS = 60
"""JAX's own limit comes so much later than ours, which ends in an exception."""

_LEAVE_POLL_SECONDS = 0.02

_FRAME_BYTES = 4096
_HEADER_BYTES = 8


class CouldNotJoin(TrainerExit):
    """Not all processes of the run came together in time. Worth another try: the message says who was waited for."""

    others_missing = True


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of the run, seen from one of them."""

    process_index: int
    """Index of this process."""
    process_count: int
    """Processes of the run."""
    lifeline: Lifeline | None = field(default=None, repr=False, compare=False)
    """Connection to the other processes. None for a single process."""

    @property
    def distributed(self) -> bool:
        """Whether there are other processes, and so a coordination service."""
        return self.process_count > 1

    @property
    def is_main(self) -> bool:
        """True on process 0, which decides and reports for all."""
        return self.process_index == 0

    def agree(self, document: dict[str, Any] | None) -> dict[str, Any]:
        """Process 0's document, on every process. A collective: all processes call it, in the main thread, in the same order.

        Args:
            document: On process 0, anything JSON can say. Ignored on the others.
        """
        if self.is_main and document is None:
            raise ValueError("process 0 must bring the document on which all agree")
        text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode() if self.is_main else b""
        return json.loads(_broadcast(text) if self.distributed else text)

    def greatest(self, *mine: float) -> tuple[float, ...]:
        """The greatest of each number over all processes, as float32. A collective, as `agree`."""
        numbers = np.array(mine, np.float32)
        everyone = multihost_utils.process_allgather(numbers) if self.distributed else numbers[None]
        return tuple(float(number) for number in np.max(np.asarray(everyone), axis=0))

    def barrier(self, name: str) -> None:
        """Wait until all processes are at the barrier of this name. A collective, for the main thread only.

        Raises:
            RuntimeError: Process 0 is at another barrier: the processes have lost step with each other.
        """
        if not self.distributed:
            return
        leader = self.agree({"barrier": name}).get("barrier")
        if leader != name:
            raise RuntimeError(f"process {self.process_index} is at the barrier {name!r} and process 0 at {leader!r}")


def join(
    coordinator: str | None,
    process_index: int,
    process_count: int,
    devices_per_host: int | None,
    timeout_seconds: float = JOIN_TIMEOUT_SECONDS,
    *,
    heartbeat_timeout_seconds: int = HEARTBEAT_TIMEOUT_SECONDS,
    leave_timeout_seconds: int = LEAVE_TIMEOUT_SECONDS,
    on_loss: OnLoss = end_process,
) -> ProcessGroup:
    """Connect this process with all others, before anything else touches a device.

    Args:
        coordinator: ``host:port`` of process 0's coordination service. Not needed by a single process.
        process_index: Index of this process.
        process_count: Processes of the run.
        devices_per_host: On CPU, how many devices this process shall have. None: take the accelerator's devices as they are.
        timeout_seconds: How long to wait for the others, the coordinator's DNS record included.
        heartbeat_timeout_seconds: A process that is silent for this time is dead, and all others are ended.
        leave_timeout_seconds: How long `leave` waits for the others.
        on_loss: Called in another thread with the index of a process that is gone without leaving. It should end this process, for the
            main thread may wait for the lost one for ever. Default: say so and end with exit code 1.

    Raises:
        CouldNotJoin: The others did not come in time.
        BadConfiguration: Several processes and no coordinator, or an address that is not ``host:port``.
    """
    if devices_per_host is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices_per_host)
    if process_count == 1:
        return ProcessGroup(process_index, process_count)
    if coordinator is None:
        raise BadConfiguration(f"a run of {process_count} processes needs the coordinator's address; start it through the operator")
    if devices_per_host is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        host, port = split_address(coordinator)
    except ValueError as error:
        raise BadConfiguration(str(error)) from None
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is ours; see `preemption`
    deadline = time.monotonic() + timeout_seconds
    try:
        address = resolve(host, port, deadline) if process_index == 0 else wait_until_listening(host, port, deadline)
        connect = functools.partial(
            jax.distributed.initialize,
            coordinator_address=address,
            num_processes=process_count,
            process_id=process_index,
            cluster_detection_method="deactivate",
            initialization_timeout=math.ceil(timeout_seconds) + _GRACE_SECONDS,
            heartbeat_timeout_seconds=heartbeat_timeout_seconds,
            shutdown_timeout_seconds=leave_timeout_seconds,
        )
        _within(connect, deadline - time.monotonic())
    except TimeoutError:
        why = "some of them have not come; look at the pods that are not running or have failed"
    except (NoCoordinator, jax.errors.JaxRuntimeError) as error:
        why = str(error)
    else:
        processes = ProcessGroup(process_index, process_count)
        return replace(processes, lifeline=_tie(processes, split_address(address)[0], on_loss))
    raise CouldNotJoin(f"process {process_index} of {process_count} waited {timeout_seconds:.0f} s for the others at {coordinator}: {why}")


def leave(processes: ProcessGroup) -> None:
    """Disconnect, so that the process can exit at once. Waits for the others, but no longer than was agreed when joining, and not at
    all once one of them is gone without leaving: the process that saw the cause reports it. Of two threads that come to it the second
    waits for the first.

    Afterwards, end the process with ``os._exit``: at an ordinary exit JAX would wait for the others once more.
    """
    if processes.lifeline is None:
        return
    with processes.lifeline.leaving_once:
        if not processes.lifeline.part():
            return
        disconnected = threading.Event()

        def disconnect() -> None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                jax.distributed.shutdown()
            disconnected.set()

        threading.Thread(target=disconnect, name="halcyon-leave", daemon=True).start()
        while not disconnected.wait(_LEAVE_POLL_SECONDS) and not processes.lifeline.lost.is_set():
            pass


def enable_compilation_cache(directory: str) -> None:
    """Keep every compiled program in `directory` and take it from there, so that a restarted process does not compile again.

    Of several processes only process 0 writes: the directory must outlive the process and be seen by all to be of use to all.
    """
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # Else the directory's name becomes part of every key, and a program is only found again below the same path.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def _tie(processes: ProcessGroup, host: str, on_loss: OnLoss) -> Lifeline:
    """Connect this process to process 0."""
    if processes.is_main:
        lifeline, invitation = Lifeline.serve(on_loss)
        processes.agree(invitation)
        return lifeline
    invitation = processes.agree(None)
    try:
        return Lifeline.connect(host, invitation, processes.process_index, on_loss)
    except OSError as error:
        raise CouldNotJoin(
            f"process {processes.process_index} reached process 0 at {host} but not its port {invitation['port']} ({error}); let the pods "
            "of a run talk to each other on all ports"
        ) from None


def _within(function: Callable[[], None], seconds: float) -> None:
    """Run `function` for at most these seconds, in a thread that is left running if it takes longer.

    JAX ends the whole process, without an exception, when its own time is over; and while the main thread waits inside of JAX it
    handles no signal, so that a notice of preemption would be missed.
    """
    failures: list[Exception] = []

    def run() -> None:
        try:
            function()
        except Exception as error:  # handed to the caller below
            failures.append(error)

    thread = threading.Thread(target=run, name="halcyon-join", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError
    if failures:
        raise failures[0]


def _broadcast(text: bytes) -> bytes:
    """Process 0's bytes on every process, by an all-reduce of one small frame, and of a second one where they do not fit."""
    frame = np.zeros(_FRAME_BYTES, np.uint8)
    frame[:_HEADER_BYTES] = np.frombuffer(len(text).to_bytes(_HEADER_BYTES, "little"), np.uint8)
    head = text[: _FRAME_BYTES - _HEADER_BYTES]
    frame[_HEADER_BYTES : _HEADER_BYTES + len(head)] = np.frombuffer(head, np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(frame)).tobytes()
    size = int.from_bytes(received[:_HEADER_BYTES], "little")
    if size <= _FRAME_BYTES - _HEADER_BYTES:
        return received[_HEADER_BYTES : _HEADER_BYTES + size]
    padded = np.zeros(1 << (size - 1).bit_length(), np.uint8)  # powers of two: few programs to compile
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes()[:size]
