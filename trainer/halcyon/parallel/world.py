"""Joining and leaving the world: all processes of a run, connected by JAX's coordination service.

Process 0 runs the service. Every process knows its index and the count from the operator; nothing is detected. A dead process must take
the others with it at once, for the JobSet restarts the world as a whole: whoever waits for it in a collective loses the connection
(on CPU, gloo raises), and whoever does not is ended by the coordination service once the dead one has missed its heartbeats.

After `join` a process must end through `leave`, whatever happened: the service waits at its shutdown for the processes that are
still alive, and so an interpreter that simply exits may wait for a peer that is waiting for it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from halcyon.errors import BadConfiguration, TrainerExit
from halcyon.parallel.rendezvous import NoCoordinator, resolve, split_address, wait_until_listening

JOIN_TIMEOUT_SECONDS = 120
HEARTBEAT_TIMEOUT_SECONDS = 15
LEAVE_TIMEOUT_SECONDS = 10

_FRAME_BYTES = 4096
_HEADER_BYTES = 8


class CouldNotJoin(TrainerExit):
    """Not all processes of the run came together in time. Worth another try: the message says who was waited for."""


@dataclass(frozen=True)
class World:
    """The processes of the run, seen from one of them."""

    process_index: int
    """Index of this process."""
    process_count: int
    """Processes of the run."""
    distributed: bool = False
    """Whether the coordination service runs. It does not for a single process."""

    @property
    def is_main(self) -> bool:
        """True on process 0, which decides and reports for all."""
        return self.process_index == 0

    def agree(self, document: dict[str, Any] | None) -> dict[str, Any]:
        """Process 0's document, on every process. A collective: all processes call it, in the main thread, in the same order.

        Args:
            document: On process 0, anything JSON can say. Ignored on the others.
        """
        text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode() if self.is_main else b""
        if self.is_main and document is None:
            raise ValueError("process 0 must bring the document on which all agree")
        return json.loads(_broadcast(text) if self.distributed else text)

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
) -> World:
    """Connect this process with all others, before anything else touches a device.

    Args:
        coordinator: ``host:port`` of process 0's coordination service. Not needed by a single process.
        process_index: Index of this process.
        process_count: Processes of the run.
        devices_per_host: On CPU, how many devices this process shall have. None: take the accelerator's devices as they are.
        timeout_seconds: How long to wait for the others, the coordinator's DNS record included.
        heartbeat_timeout_seconds: A process that is silent for so long is dead, and all others are ended.
        leave_timeout_seconds: How long `leave` waits for the others.

    Raises:
        CouldNotJoin: The others did not come in time.
        BadConfiguration: Several processes and no coordinator, or an address that is not ``host:port``.
    """
    if devices_per_host is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices_per_host)
    if process_count == 1:
        return World(0, 1)
    if coordinator is None:
        raise BadConfiguration(f"a run of {process_count} processes needs the coordinator's address; start it through the operator")
    if devices_per_host is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        host, port = split_address(coordinator)
    except ValueError as error:
        raise BadConfiguration(str(error)) from None
    deadline = time.monotonic() + timeout_seconds
    try:
        address = resolve(host, port, deadline) if process_index == 0 else wait_until_listening(host, port, deadline)
        jax.distributed.initialize(
            coordinator_address=address,
            num_processes=process_count,
            process_id=process_index,
            cluster_detection_method="deactivate",
            initialization_timeout=max(1, round(deadline - time.monotonic())),
            heartbeat_timeout_seconds=heartbeat_timeout_seconds,
            shutdown_timeout_seconds=leave_timeout_seconds,
        )
    except (NoCoordinator, jax.errors.JaxRuntimeError) as error:
        raise CouldNotJoin(
            f"process {process_index} of {process_count} waited {timeout_seconds:.0f} s for the others at {coordinator}: {error}"
        ) from None
    return World(process_index, process_count, distributed=True)


def leave(world: World) -> None:
    """Disconnect, so that the process can exit at once. Waits for the others, but no longer than was agreed when joining.

    A peer that is already gone is no error here: what made it go is reported by whoever saw it.
    """
    if not world.distributed or not jax.distributed.is_initialized():
        return
    try:
        jax.distributed.shutdown()
    except jax.errors.JaxRuntimeError:
        return


def enable_compilation_cache(directory: str) -> None:
    """Keep every compiled program in `directory` and take it from there, so that a restarted process does not compile again.

    Of several processes only process 0 writes: the directory must outlive the process and be seen by all to be of use to all.
    """
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


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
