"""Joins and leaves the process group: all processes of a run, connected by JAX's coordination service.

Process 0 runs the service. The operator gives every process its index and the number of processes; nothing is detected.
If a process dies, the others must end at once, because the JobSet restarts the whole process group. The lifeline
reports the loss within milliseconds (see `halcyon.parallel.lifeline`). If the lifeline cannot detect it, the
coordination service ends the others after missing heartbeats.

After `join` a process must always end through `leave`. The shutdown of the service waits for all living processes, so a
process that exits without `leave` may wait for another process that waits for it.

After a restart every second matters, and two waits for the coordinator would be slow in JAX: the DNS record of a fresh
pod appears a little after the pod, and gRPC backs off for a second or more after one failed connection. So `resolve`
and `wait_until_listening` try every 50 ms, and JAX connects to an address that is known to answer.
"""

import contextlib
import functools
import json
import math
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from halcyon.host.errors import BadConfiguration, TrainerExit
from halcyon.host.linux import keep_freed_memory, schedule_as_batch
from halcyon.host.storage.files import begin
from halcyon.parallel.lifeline import Lifeline, OnLoss, end_process

JOIN_TIMEOUT_SECONDS = 1800
"""Longest wait for the other processes, which may still wait for a machine.

The operator normally ends this wait earlier.
"""
HEARTBEAT_TIMEOUT_SECONDS = 15
LEAVE_TIMEOUT_SECONDS = 10
"""Longest wait of a process that leaves for the others. It then leaves alone."""

_GRACE_SECONDS = 60
"""JAX's own time limit is this much later than ours, because ours raises an exception and JAX's ends the process."""

_FRAME_BYTES = 4096
_HEADER_BYTES = 8
POLL_SECONDS = 0.05
Clock = Callable[[], float]


class CouldNotJoin(TrainerExit):
    """Not all processes of the run joined in time.

    A retry may succeed; the message says which connection was missing.
    """

    others_missing = True


@dataclass(frozen=True)
class ProcessGroup:
    """The process group of a run, in one of its processes."""

    process_index: int
    """Index of this process."""
    process_count: int
    """Number of processes of the run."""
    lifeline: Lifeline | None = field(default=None, repr=False, compare=False)
    """Connection to the other processes. None for a single process."""
    leave_timeout_seconds: float = field(default=LEAVE_TIMEOUT_SECONDS, repr=False, compare=False)
    """Longest wait of `leave` for the others."""

    @property
    def distributed(self) -> bool:
        """Whether there are other processes, and thus a coordination service."""
        return self.process_count > 1

    @property
    def is_main(self) -> bool:
        """True on process 0, which decides and reports for all processes."""
        return self.process_index == 0

    def agree(self, document: dict[str, Any] | None) -> dict[str, Any]:
        """Process 0's document, on every process. A collective: all processes call it in the main thread, in the same
        order.

        Args:
            document: On process 0, a JSON document. Ignored on the others.
        """
        if self.is_main and document is None:
            raise ValueError("process 0 must give the document for all processes")
        text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode() if self.is_main else b""
        return json.loads(_broadcast(text) if self.distributed else text)

    def greatest(self, *mine: float) -> tuple[float, ...]:
        """The maximum of each number over all processes, as float32. A collective, as `agree`."""
        return tuple(float(number) for number in self.gathered(mine).max(0))

    def gathered(self, mine: Sequence[float]) -> np.ndarray:
        """The numbers of all processes, as float32: [process, number]. A collective, as `agree`."""
        numbers = np.array(mine, np.float32)
        return np.asarray(multihost_utils.process_allgather(numbers)) if self.distributed else numbers[None]


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
    """Connect this process with all others. Call it before any code uses a device.

    Args:
        coordinator: ``host:port`` of process 0's coordination service. Not needed for a single process.
        process_index: Index of this process.
        process_count: Number of processes of the run.
        devices_per_host: On CPU, the number of devices of this process. None: use the accelerator's devices.
        timeout_seconds: Longest wait for the others, including the coordinator's DNS record.
        heartbeat_timeout_seconds: A process without a heartbeat for this time counts as dead, and all others are ended.
        leave_timeout_seconds: Longest wait of `leave` for the others.
        on_loss: Called in another thread with the index of a process that ended without `leave`. It should end this
            process, because the main thread may wait for the lost one forever. Default: report the loss and end with
            exit code 1.

    Raises:
        CouldNotJoin: The others did not join in time.
        BadConfiguration: Several processes without a coordinator, an address that is not ``host:port``, or JAX is in
            use with another number of virtual devices.
    """
    if devices_per_host is not None:
        _take_virtual_devices(devices_per_host)
        keep_freed_memory()
    if process_count == 1:
        return ProcessGroup(process_index, process_count)
    if coordinator is None:
        raise BadConfiguration(
            f"a run of {process_count} processes needs the coordinator's address; start it through the operator"
        )
    if devices_per_host is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        schedule_as_batch()  # before JAX and Gloo start their threads
    try:
        host, port = split_address(coordinator)
    except ValueError as error:
        raise BadConfiguration(str(error)) from None
    jax.config.update("jax_enable_preemption_service", False)  # `preemption` handles SIGTERM
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
        # When JAX's own time limit is over, JAX ends the process without an exception. And while the main thread waits
        # inside JAX it handles no signal, so it would miss a preemption notice.
        begin(connect, name="halcyon-join").result(deadline - time.monotonic())
    except TimeoutError:
        why = "some of them have not joined; check the pods that are not running or have failed"
    except (NoCoordinator, jax.errors.JaxRuntimeError) as error:
        why = str(error)
    else:
        processes = ProcessGroup(process_index, process_count, leave_timeout_seconds=leave_timeout_seconds)
        return replace(processes, lifeline=_connect_lifeline(processes, split_address(address)[0], on_loss))
    raise CouldNotJoin(
        f"process {process_index} of {process_count} waited {timeout_seconds:.0f} s for the others at {coordinator}: "
        f"{why}"
    )


def _take_virtual_devices(count: int) -> None:
    """Have JAX make this number of devices of the processor. It makes them at its first use in the process."""
    jax.config.update("jax_platforms", "cpu")
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # other code, such as the earlier cells of a notebook, has used JAX
        if jax.device_count() != count:
            raise BadConfiguration(
                f"spec.accelerator: the run takes {count} devices of the processor, and this process has used JAX with "
                f"{jax.device_count()} already; train first, or start it with JAX_NUM_CPU_DEVICES={count}"
            ) from None


def leave(processes: ProcessGroup) -> None:
    """Disconnect, so that the process can exit at once.

    Waits until the others leave too, at most ``leave_timeout_seconds`` of `join`, and only while all of them live.
    Otherwise this process leaves alone, and its end ends the others. If two threads call it, the second waits for the
    first.

    Afterwards, end the process with ``os._exit``: at an ordinary exit JAX would wait for the others again.
    """
    if processes.lifeline is None:
        return
    with processes.lifeline.leave_lock:
        if not processes.lifeline.say_goodbye():
            return
        # JAX's shutdown waits for all processes, and ends this one without its exit code if they do not come in time.
        if processes.lifeline.wait_for_goodbyes(processes.leave_timeout_seconds):
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                jax.distributed.shutdown()


def enable_compilation_cache(directory: str) -> None:
    """Keep every compiled program in `directory` and load it from there, so that a restarted process does not compile
    again.

    Only process 0 writes, so the directory must be shared by all processes, and must stay after the process has ended.
    """
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # Otherwise the directory's name is part of every key, and a program is found only below the same path.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def _connect_lifeline(processes: ProcessGroup, host: str, on_loss: OnLoss) -> Lifeline:
    """Connect this process to process 0."""
    if processes.is_main:
        lifeline, invitation = Lifeline.serve(processes.process_count, on_loss)
        processes.agree(invitation)
        return lifeline
    invitation = processes.agree(None)
    try:
        return Lifeline.connect(host, invitation, processes.process_index, on_loss)
    except OSError as error:
        raise CouldNotJoin(
            f"process {processes.process_index} reached process 0 at {host} but not its port {invitation['port']} "
            f"({error}); allow the pods of a run to connect to each other on all ports"
        ) from None


def _broadcast(text: bytes) -> bytes:
    """Process 0's bytes on every process, by an all-reduce of one frame of 4 KiB, and of a larger one if they do not
    fit.
    """
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


class NoCoordinator(Exception):
    """The coordinator's name did not resolve in time, or its port did not answer in time. The message says which."""


def split_address(coordinator: str) -> tuple[str, int]:
    """Host and port of ``host:port``. An IPv6 address must be in brackets.

    Raises:
        ValueError: There is no port, or it is not a number from 1 to 65535.
    """
    host, separator, port = coordinator.rpartition(":")
    if not separator or not host or not port.isdecimal() or not 1 <= int(port) <= 65_535:
        raise ValueError(f"the coordinator address {coordinator!r} must be host:port with a port from 1 to 65535")
    return host.removeprefix("[").removesuffix("]"), int(port)


def resolve(
    host: str, port: int, deadline: float, clock: Clock = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> str:
    """The first address of `host`, as ``address:port``. Retries until `deadline`.

    Raises:
        NoCoordinator: The name did not resolve in time.
    """
    while True:
        try:
            address = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
            return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        except socket.gaierror as error:
            if clock() >= deadline:
                raise NoCoordinator(f"the name {host} of the coordinator does not resolve ({error.strerror})") from None
        sleep(POLL_SECONDS)


def wait_until_listening(
    host: str, port: int, deadline: float, clock: Clock = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> str:
    """The address of `host` that accepts connections on `port`, as ``address:port``.

    Every try resolves the name again, because a record may still point to the pod of the previous attempt.

    Raises:
        NoCoordinator: The name did not resolve in time, or the port did not answer in time.
    """
    while True:
        address = resolve(host, port, deadline, clock, sleep)
        try:
            with socket.create_connection(
                split_address(address), timeout=max(POLL_SECONDS, min(1.0, deadline - clock()))
            ):
                return address
        except OSError as error:
            if clock() >= deadline:
                raise NoCoordinator(
                    f"the coordinator does not answer at {address} ({error.strerror or error})"
                ) from None
        sleep(POLL_SECONDS)
