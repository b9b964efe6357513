"""A session connects the processes of a run: join, build the mesh over the devices, leave.

Every task that computes on devices runs inside `session`. The task ``data`` needs no session: its processes share only
the token caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from halcyon.errors import TrainerExit
from halcyon.parallel.devices import check_device_memory, check_host_memory, check_narrow
from halcyon.parallel.mesh import build_mesh
from halcyon.parallel.process_group import ProcessGroup, join, leave
from halcyon.run.context import Context, adapt_to_devices
from halcyon.telemetry import RunReporter


@dataclass(frozen=True)
class Session:
    """The process group that this process has joined."""

    processes: ProcessGroup
    _context: Context
    _reporter: RunReporter

    def lay_out(self) -> tuple[Context, Mesh]:
        """Initialise the devices and build the mesh over them.

        Returns:
            The context with the topology of the devices that JAX found, and the mesh.

        Raises:
            BadConfiguration: The run cannot use these devices, or does not fit into their memory.
        """
        self._reporter.joined(processes=self.processes.process_count, devices=jax.device_count())
        context = adapt_to_devices(self._context, jax.device_count(), jax.default_backend())
        check_narrow(context.run.spec.trainer.precision, jax.devices())
        check_device_memory(context.run.spec, context.mesh)
        check_host_memory(context.run.spec.trainer, jax.local_devices())
        return context, build_mesh(context.mesh)


@contextmanager
def session(
    context: Context,
    reporter: RunReporter,
    *,
    on_lost_process: Callable[[int], object],
    on_joined: Callable[[ProcessGroup], object] = lambda processes: None,
) -> Iterator[Session]:
    """Join the process group, and leave it at a normal end or at a `TrainerExit`, which all processes raise or this one
    alone.

    A process that ends with any other exception does not leave, so the other processes detect its end at once.

    Args:
        context: The run and this process's place in it.
        reporter: Receives the stages.
        on_lost_process: Called in another thread with the index of a lost process; it must end this process.
        on_joined: Called with the processes when all have joined.

    Raises:
        CouldNotJoin: Another process did not join in time.
        BadConfiguration: There is no usable address of the coordinator.
    """
    reporter.stage("joining")
    processes = join(
        context.coordinator, context.process_index, context.process_count, context.own_devices, on_loss=on_lost_process
    )
    on_joined(processes)
    try:
        yield Session(processes, context, reporter)
    except TrainerExit:
        leave(processes)
        raise
    leave(processes)
