"""The part of a run's life in which its processes are connected: join, lay the mesh over the devices, leave.

Every task that computes on devices runs inside of `session`. A run of the task ``data`` needs none: its processes meet through the token
caches alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from halcyon.context import Context, adapt_to_devices
from halcyon.errors import TrainerExit
from halcyon.machine.memory import check_device_memory
from halcyon.parallel.mesh import build_mesh
from halcyon.parallel.process_group import ProcessGroup, join, leave
from halcyon.telemetry import RunReporter


@dataclass(frozen=True)
class Session:
    """The connected processes, seen from one of them."""

    processes: ProcessGroup
    _context: Context
    _reporter: RunReporter

    def lay_out(self) -> tuple[Context, Mesh]:
        """Start the devices and lay the mesh over them. The context that comes back has the topology of the devices that are here.

        Raises:
            BadConfiguration: The run cannot use these devices, or does not fit into their memory.
        """
        self._reporter.joined(processes=self.processes.process_count, devices=jax.device_count())
        context = adapt_to_devices(self._context, jax.device_count(), jax.default_backend())
        check_device_memory(context.run.spec, context.mesh)
        return context, build_mesh(context.mesh)


@contextmanager
def session(context: Context, reporter: RunReporter, *, on_lost_process: Callable[[int], object]) -> Iterator[Session]:
    """Join the other processes, and leave them at the end: at a normal one, or at a `TrainerExit`, to which all processes come.

    A process that ends with any other exception does not leave, so the others learn of it at once.

    Args:
        context: The run and this process's place in it.
        reporter: Reports the stages.
        on_lost_process: Called in another thread with the index of a process that is gone; it must end this one.

    Raises:
        CouldNotJoin: The others did not come in time.
        BadConfiguration: There is no usable address of the coordinator.
    """
    reporter.stage("joining")
    processes = join(context.coordinator, context.process_index, context.process_count, context.own_devices, on_loss=on_lost_process)
    try:
        yield Session(processes, context, reporter)
    except TrainerExit:
        leave(processes)
        raise
    leave(processes)
