"""The place of a process in a run that computes on devices: which run, with which processes, and where it reports.

A session connects the processes: join, build the mesh over the devices, leave. Every task that computes on devices runs
inside one. The task ``data`` needs none: its processes share only the token caches.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import jax
from jax.sharding import Mesh

from halcyon.checkpoint.origin import OtherRun, origin_store
from halcyon.host.agent.link import Link
from halcyon.host.errors import TrainerExit
from halcyon.host.memory import check_memory
from halcyon.host.storage.retry_budget import RetryBudget
from halcyon.host.storage.store import Store
from halcyon.parallel.device_mesh import build_mesh
from halcyon.parallel.devices import check_host_memory, check_narrow, device_memory
from halcyon.parallel.process_group import JOIN_TIMEOUT_SECONDS, CouldNotJoin, ProcessGroup, join, leave
from halcyon.run.context import Context, Surroundings, adapt_to_devices
from halcyon.telemetry import RunReporter
from halcyon_api.spec.origin import OriginSpec
from halcyon_api.status.progress import ReportedEnd
from halcyon_api.training_run import TrainingRunSpec

REJOIN_TIMEOUT_SECONDS = 600
"""Longest wait of a process that starts again in its pod for the pods of the others. Then all pods are replaced."""


@dataclass(frozen=True)
class Place:
    """What every part of a task needs to know of its run and its processes."""

    context: Context
    processes: ProcessGroup
    reporter: RunReporter
    retry_budget: RetryBudget | None = None
    """The waits for stores that deny access while the run starts."""

    @property
    def spec(self) -> TrainingRunSpec:
        """The run's spec."""
        return self.context.spec

    def with_spec(self, spec: TrainingRunSpec) -> Place:
        """The same place in the run with another spec."""
        return replace(self, context=self.context.with_spec(spec))

    def lay_out(self) -> tuple[Place, Mesh]:
        """Initialise the devices and build the mesh over them.

        Returns:
            The place with the topology of the devices that JAX found, and the mesh.

        Raises:
            BadConfiguration: The run cannot use these devices, or does not fit into their memory.
        """
        seconds = self.reporter.seconds_in_stage()
        self.reporter.event(
            "joined", processes=self.processes.process_count, devices=jax.device_count(), seconds=seconds
        )
        context = adapt_to_devices(self.context, jax.device_count(), jax.default_backend())
        check_narrow(context.spec.trainer.precision, jax.devices())
        check_memory(context.spec, context.mesh, device_memory(), devices=1, where="each device")
        check_host_memory(context.spec.trainer, jax.local_devices())
        return replace(self, context=context), build_mesh(context.mesh)

    def root(self) -> Store:
        """The run's own checkpoint root."""
        return Store(self.spec.checkpoint, retry_budget=self.retry_budget)

    def other_run(self, origin: OriginSpec) -> OtherRun:
        """The run that ``spec.from`` names.

        Raises:
            BadConfiguration: ``spec.from.root`` is not set.
        """
        store = origin_store(origin, self.spec.checkpoint, self.retry_budget)
        return OtherRun(origin, store, self.context.owner, self.processes)


def _met(context: Context, link: Link, reporter: RunReporter) -> Context:
    """The place of this process after the supervisors of all pods have met: every earlier process has ended.

    Raises:
        CouldNotJoin: The others did not come in time.
    """
    seconds = REJOIN_TIMEOUT_SECONDS if link.starts_again else JOIN_TIMEOUT_SECONDS
    try:
        lineage = link.wait_for_others(seconds)
    except TimeoutError:
        raise CouldNotJoin(
            f"process {context.process_index} of {context.process_count} waited {seconds} s for the other pods; "
            "check the pods that are not running"
        ) from None
    reporter.knows(
        in_place=lineage.number,
        ends_in_place=[ReportedEnd.model_validate_json(json.dumps(end)) for end in lineage.ends],
    )
    return replace(context, lineage=lineage)


@contextmanager
def session(
    context: Context,
    reporter: RunReporter,
    around: Surroundings,
) -> Iterator[Place]:
    """Join the process group, and leave it at a normal end or at a `TrainerExit`, which all processes raise or this one
    alone.

    A process that ends with any other exception does not leave, so the other processes detect its end at once.

    Args:
        context: The run and this process's place in it.
        reporter: Receives the stages.
        around: The program around it.

    Raises:
        CouldNotJoin: Another process did not join in time.
        BadConfiguration: There is no usable address of the coordinator.
    """
    reporter.stage("joining")
    if context.link is not None:
        context = _met(context, context.link, reporter)
    processes = join(
        context.coordinator,
        context.process_index,
        context.process_count,
        context.own_devices,
        on_loss=around.on_lost_process,
    )
    around.on_joined(processes)
    try:
        yield Place(context, processes, reporter, around.retry_budget)
    except TrainerExit:
        leave(processes)
        raise
    leave(processes)
