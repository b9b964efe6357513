"""The run and this process's place in it: in a pod that the operator made, on one of several hosts, or on the user's
own machine.

In a pod everything comes from the injected environment, and on several hosts from the same variables, which
`halcyon.run.on_hosts` sets. The user's own machine has one process. With the type ``cpu``
this process has virtual devices for all hosts of the topology, so that the mesh and the arithmetic are those of the
cluster. With the other types it takes the accelerators that JAX finds, or the processor if the user asks for it. There
the next epoch comes from HEAD of the checkpoint root.

Importing this module imports no JAX.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halcyon.data.batch_schedule import build_schedule
from halcyon.host.agent.lineage import Lineage
from halcyon.host.agent.link import Link
from halcyon.host.errors import BadConfiguration
from halcyon.host.memory import check_memory, machine_memory
from halcyon.host.storage.retry_budget import RetryBudget
from halcyon.telemetry import ProfileRequests, RunIdentity, RunPlan, SaveRequests
from halcyon.weights.model_file import read_model
from halcyon_api.base import InvalidRun
from halcyon_api.checkpoint_documents import Epoch, Owner
from halcyon_api.counting import counted
from halcyon_api.defaults.files import load_resolved, with_changes
from halcyon_api.environment import InvalidEnvironment, parse_environment
from halcyon_api.local_roots import root_address
from halcyon_api.mesh import pinned, run_mesh
from halcyon_api.package import install
from halcyon_api.reading import read_one
from halcyon_api.spec.accelerator import Topology
from halcyon_api.spec.mesh import InvalidMesh, ResolvedMesh
from halcyon_api.training_run import TrainingRun, TrainingRunSpec
from halcyon_api.validation import find_problems

if TYPE_CHECKING:
    from halcyon.parallel.process_group import ProcessGroup


@dataclass(frozen=True)
class Context:
    """The run and this process's place in it."""

    run: TrainingRun
    owner: Owner
    topology: Topology
    epoch: Epoch | None = None
    """None outside a cluster: the checkpoint engine chooses the next epoch."""
    coordinator: str | None = None
    process_index: int = 0
    process_count: int = 1
    resume_step: int = 0
    termination_log: Path | None = None
    grace_seconds: float | None = None
    """Seconds from a preemption notice to the end of the process; None: no limit."""
    on_cpu: bool = False
    """Whether to train on the processor instead of the document's accelerator, on the user's own machine."""
    link: Link | None = None
    """The connection to the pod's supervisor, if there is one."""
    lineage: Lineage | None = None
    """The earlier starts in these pods, once all processes have met."""
    save_token: str = ""
    """Token that a request for a checkpoint over HTTP must contain; empty: such requests are rejected."""
    memory: Path | None = None
    """Folder in the pod's memory, for snapshots."""

    @property
    def spec(self) -> TrainingRunSpec:
        """The run's spec."""
        return self.run.spec

    @property
    def name(self) -> str:
        """The run's namespace and name."""
        return f"{self.owner.namespace}/{self.owner.name}"

    @property
    def identity(self) -> RunIdentity:
        """The process in the logs and reports."""
        epoch = self.epoch or Epoch(attempt=0, restart=0)
        return RunIdentity(self.owner.name, epoch.attempt, epoch.restart, self.process_index)

    @property
    def mesh(self) -> ResolvedMesh:
        """Mesh axes and sizes on this topology."""
        return run_mesh(self.spec, self.topology)

    @property
    def own_devices(self) -> int | None:
        """The number of virtual devices of this process, on the processor; None: it takes the devices of the
        accelerator.
        """
        if self.spec.accelerator.type == "cpu":
            return self.topology.devices // self.process_count
        return 1 if self.on_cpu else None

    @property
    def in_pod(self) -> bool:
        """Whether this process runs in a pod that the operator made."""
        return self.epoch is not None

    def with_spec(self, spec: TrainingRunSpec) -> Context:
        """The same place in a run with another spec."""
        return replace(self, run=self.run.but(spec=spec))

    def process_name(self) -> str:
        """A name for this process that no earlier or later process has."""
        return f"{self.name}/{self.process_index}/{secrets.token_hex(8)}"


def resolve_context(
    document: Path | Mapping[str, Any] | TrainingRun,
    environ: Mapping[str, str],
    *,
    checkpoint_root: str | None = None,
    defaults: Sequence[Path] = (),
    on_cpu: bool = False,
    overrides: Sequence[str] = (),
) -> Context:
    """Read the run document and the environment.

    Args:
        document: Path of the ``run.yaml``, its contents, or the same as an object.
        environ: The process's environment.
        checkpoint_root: Replaces ``spec.checkpoint.root`` and removes the store settings of that root.
        defaults: Files of TrainingRunDefaults for fields that the document does not set, the most specific first. In a
            pod the operator has already applied them.
        on_cpu: Train on the processor instead of the document's accelerator. Has no effect in a pod.
        overrides: Changes of the document, each ``PATH=VALUE`` (`halcyon_api.overrides`).

    Raises:
        BadConfiguration: The document or the environment is not valid; the message names the field.
    """
    checkpoint_root = root_address(checkpoint_root) if checkpoint_root is not None else None
    try:
        found = document if isinstance(document, Path) else contents_of(document)
        run = load_resolved(found, defaults, checkpoint_root, read_model, overrides)
        pod = parse_environment(environ)
        if checkpoint_root is not None:
            run = _with_root(run, checkpoint_root)
    except (InvalidRun, InvalidEnvironment, ValueError) as error:
        raise BadConfiguration(str(error)) from None
    if pod is None:
        return Context(
            run=run,
            owner=Owner(namespace=run.metadata.namespace, name=run.metadata.name, uid=run.metadata.uid),
            topology=run.spec.accelerator.resolve(),
            on_cpu=on_cpu,
        )
    # A document without a mesh gets the operator's mesh: this version of the trainer may suggest another one.
    run = run.but(spec=pinned(run.spec, pod.mesh))
    return Context(
        run=run,
        owner=Owner(namespace=pod.namespace, name=run.metadata.name, uid=pod.run_uid),
        epoch=Epoch(attempt=pod.attempt, restart=pod.restart) if pod.attempt else None,
        topology=Topology(pod.slices, pod.hosts_per_slice, pod.devices_per_host),
        coordinator=pod.coordinator if pod.process_count > 1 else None,
        process_index=pod.process_index,
        process_count=pod.process_count,
        resume_step=pod.resume_step,
        termination_log=Path(pod.termination_log),
        grace_seconds=pod.grace_seconds,
        save_token=pod.save_token,
        memory=None if pod.memory is None else Path(pod.memory),
    )


def contents_of(document: Any) -> Any:
    """The contents of a document, which may be a `TrainingRun`: what its maker has set."""
    if not isinstance(document, TrainingRun):
        return document
    return document.model_dump(by_alias=True, mode="json", exclude_unset=True, exclude_none=True)


def written(document: Path | Mapping[str, Any] | TrainingRun) -> dict[str, Any]:
    """A copy of what a document says, with the model of the config.json that it names.

    Raises:
        BadConfiguration: It cannot be read.
    """
    is_file = isinstance(document, Path)
    try:
        found = read_one(document) if is_file else contents_of(document)
        return deepcopy(with_changes(found, document.parent if is_file else Path(), read_model, ()))
    except InvalidRun as error:
        raise BadConfiguration(str(error)) from None


def check_context(context: Context) -> None:
    """Check the run against its topology, before any device is initialised.

    Raises:
        BadConfiguration: The run cannot be trained; the message has one sentence for each problem.
    """
    problems = find_problems(context.spec, context.topology)
    if problems:
        raise BadConfiguration("; ".join(map(str, problems)))
    own_devices = context.own_devices
    if own_devices is not None and not context.on_cpu:  # virtual devices share the memory of the machine
        check_memory(context.spec, context.mesh, machine_memory(), devices=own_devices, where="this machine")


def adapt_to_devices(context: Context, device_count: int, platform: str) -> Context:
    """Check the devices that JAX found. On the user's own machine, for a type other than ``cpu``, take their number as
    the topology.

    Raises:
        BadConfiguration: There is no accelerator, the number of devices differs from the topology, the mesh does not
            fit the devices, or the run does not fit into the memory.
    """
    accelerator = context.spec.accelerator
    wanted, family = accelerator.type, accelerator.row.family
    if context.in_pod and family != "cpu" and platform != family:
        raise BadConfiguration(
            f"spec.image: JAX sees no {family.upper()} but platform {platform} on a host of type {wanted}; take an "
            f"image that is built for it (ACCELERATOR={accelerator.row.extra})"
        )
    if platform == "cpu" and family != "cpu" and not context.on_cpu:
        raise BadConfiguration(
            f"spec.accelerator.type: {wanted} is a {family.upper()}, and JAX sees none on this machine; install its "
            f"support with {install(accelerator.row.extra)}, or train on the processor with --device cpu"
        )
    if context.in_pod or context.process_count > 1 or wanted == "cpu":
        if device_count != context.topology.devices:
            raise BadConfiguration(
                f"spec.accelerator: {wanted} {accelerator.topology} x {context.topology.slices} has "
                f"{counted(context.topology.devices, 'device')}, but JAX sees {device_count} of platform {platform}; "
                "change topology or slices, or free the devices"
            )
        return context
    here = replace(context, topology=Topology(1, 1, device_count))
    where = f"(on {counted(device_count, f'{platform} device')} of this machine)"
    try:
        mesh = here.mesh
    except InvalidMesh as error:
        raise BadConfiguration(f"{error} {where}") from None
    # The problem of the topology compares with the memory of the document's accelerator; the devices here are others.
    problems = [
        f"{problem} {where}"
        for problem in find_problems(context.spec, here.topology)
        if problem.field != "spec.accelerator.topology"
    ]
    if problems:
        raise BadConfiguration("; ".join(problems))
    if context.on_cpu:
        check_memory(context.spec, mesh, machine_memory(), devices=1, where="this machine")
    return here


def _with_root(run: TrainingRun, root: str) -> TrainingRun:
    settings = run.spec.checkpoint.model_dump(exclude={"endpoint", "region", "credentials_secret", "volume_claim"})
    checkpoint = type(run.spec.checkpoint).model_validate({**settings, "root": root})
    return run.but(spec=run.spec.but(checkpoint=checkpoint))


def retry_seconds(context: Context) -> float:
    """How long a starting process retries a store that denies access or does not answer. A user would wait in front of
    a terminal, so outside a cluster there are retries only if the document asks for them.
    """
    checkpoint = context.spec.checkpoint
    asked = context.link is not None or context.in_pod or "access_retry_seconds" in checkpoint.model_fields_set
    return float(checkpoint.access_retry_seconds) if asked else 0.0


def run_plan(context: Context) -> RunPlan:
    """The plan of a run for its telemetry: which steps have which size, and how many tokens."""
    spec, trainer = context.spec, context.spec.trainer
    peak, watch = spec.accelerator.row.peak_flops_per_second, spec.telemetry.watch
    try:
        schedule = build_schedule(trainer)
    except ValueError:  # `train` rejects the document, and needs this reporter to do so
        schedule = None

    def size_of(step: int) -> tuple[int, int, bool]:
        watched = watch is not None and watch.is_due(step + 1)
        if schedule is None:
            return trainer.batch_size, trainer.sequence_length, watched
        return schedule.batch_size(step), schedule.sequence_length(step), watched

    def tokens_before(step: int) -> int:
        return step * trainer.batch_size * trainer.sequence_length if schedule is None else schedule.tokens_before(step)

    return RunPlan(
        steps=trainer.steps,
        tokens_before=tokens_before,
        log_every_steps=trainer.log_every_steps,
        size_of=size_of,
        peak_flops_per_second=None if peak is None else peak * context.topology.devices,
    )


def ignore(*_: object) -> None:
    """Do nothing with what is reported."""


@dataclass(frozen=True)
class Surroundings:
    """What a task reports to the program around it, and what that program requests.

    Default: nothing, as for the only process.
    """

    retry_budget: RetryBudget
    """The waits for stores that deny access while the run starts."""
    on_lost_process: Callable[[int], object] = ignore
    """Called in another thread with the index of a lost process; it must end this process."""
    on_failed_build: Callable[[Exception], object] = ignore
    """Called in another thread with the error of a failed cache build; it must end this process if there are others.
    The main thread may be blocked in a step that another process does not run any more."""
    on_joined: Callable[[ProcessGroup], object] = ignore
    """Called with the processes when all have joined."""
    on_interrupt: Callable[[int], object] = ignore
    """Called in another thread at each interrupt from the keyboard, with their number. The first is a notice."""
    save_requests: SaveRequests = field(default_factory=SaveRequests)
    """Requests for a checkpoint while the run trains."""
    profile_requests: ProfileRequests = field(default_factory=ProfileRequests)
    """Requests for a profile while the run trains."""
    on_error: Callable[[Exception], object] = ignore
    """Called with an error before anything is closed; it must end this process if that hangs."""
    on_notice: Callable[[], object] = ignore
    """Called in another thread at each notice; it must end this process before it is killed."""
