"""Where this process stands: in a pod that the operator made, or on the user's own machine.

In a pod everything comes from the injected environment. On one's own machine there is one process, it plays all hosts of a ``cpu``
topology with virtual devices, so that the mesh and the arithmetic are those of the cluster, and for the other types it takes whatever
accelerators JAX finds, or the processor if the user says so. Epochs there are minted from the checkpoint root itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from halcyon.errors import BadConfiguration
from halcyon.machine.local_files import root_address
from halcyon.machine.memory import check_memory, machine_memory
from halcyon_api.checkpoint_documents import Epoch, Owner
from halcyon_api.counting import counted
from halcyon_api.defaults.files import load_resolved
from halcyon_api.environment import InvalidEnvironment, parse_environment
from halcyon_api.mesh import pinned, run_mesh
from halcyon_api.package import install
from halcyon_api.spec.accelerator import Topology
from halcyon_api.spec.mesh import InvalidMesh, ResolvedMesh
from halcyon_api.training_run import InvalidRun, TrainingRun
from halcyon_api.validation import find_problems


@dataclass(frozen=True)
class Context:
    """The run and this process's place in it."""

    run: TrainingRun
    owner: Owner
    epoch: Epoch | None
    """None on one's own machine: the checkpoint engine mints the next one."""
    topology: Topology
    coordinator: str | None
    process_index: int
    process_count: int
    resume_step: int
    termination_log: Path | None
    grace_seconds: float | None = None
    """From a notice of preemption to the end of the process; None: no limit."""
    on_cpu: bool = False
    """Whether the user wants the processor in place of the document's accelerator, on their own machine."""
    save_token: str = ""
    """A request for a checkpoint over HTTP must contain it; empty: such requests are refused."""

    @property
    def mesh(self) -> ResolvedMesh:
        """Mesh axes and sizes on this topology."""
        return run_mesh(self.run.spec, self.topology)

    @property
    def own_devices(self) -> int | None:
        """On ``cpu``, how many devices this process is to have; None: it takes the accelerator's as they are."""
        if self.run.spec.accelerator.type == "cpu":
            return self.topology.devices // self.process_count
        return 1 if self.on_cpu else None

    @property
    def in_pod(self) -> bool:
        """Whether the operator made this process."""
        return self.epoch is not None


def resolve_context(
    document: Path,
    environ: Mapping[str, str],
    *,
    checkpoint_root: str | None = None,
    defaults: Sequence[Path] = (),
    on_cpu: bool = False,
) -> Context:
    """Read the run document and the environment.

    Args:
        document: Path of the ``run.yaml``.
        environ: The process's environment.
        checkpoint_root: Replaces ``spec.checkpoint.root``, with the store settings that belong to it.
        defaults: Files with what the run takes where its document is silent, the most specific first. In a pod it has taken it already.
        on_cpu: Train on the processor whatever accelerator the document names. In a pod the document decides.

    Raises:
        BadConfiguration: The document or the environment is not valid; the sentence names the field.
    """
    checkpoint_root = root_address(checkpoint_root) if checkpoint_root is not None else None
    try:
        run = load_resolved(document, defaults, checkpoint_root)
        pod = parse_environment(environ)
        if checkpoint_root is not None:
            run = _with_root(run, checkpoint_root)
    except (InvalidRun, InvalidEnvironment, ValueError) as error:
        raise BadConfiguration(str(error)) from None
    if pod is None:
        return Context(
            run=run,
            owner=Owner(namespace=run.metadata.namespace, name=run.metadata.name, uid=run.metadata.uid),
            epoch=None,
            topology=run.spec.accelerator.resolve(),
            coordinator=None,
            process_index=0,
            process_count=1,
            resume_step=0,
            termination_log=None,
            on_cpu=on_cpu,
        )
    # The operator's word on the mesh counts where the document has none: another version might suggest another one.
    run = run.model_copy(update={"spec": pinned(run.spec, pod.mesh)})
    return Context(
        run=run,
        owner=Owner(namespace=pod.namespace, name=run.metadata.name, uid=pod.run_uid),
        epoch=Epoch(attempt=pod.attempt, restart=pod.restart),
        topology=Topology(pod.slices, pod.hosts_per_slice, pod.devices_per_host),
        coordinator=pod.coordinator if pod.process_count > 1 else None,
        process_index=pod.process_index,
        process_count=pod.process_count,
        resume_step=pod.resume_step,
        termination_log=Path(pod.termination_log),
        grace_seconds=pod.grace_seconds,
        save_token=pod.save_token,
    )


def run_name(context: Context) -> str:
    """The run's name and namespace."""
    return f"{context.owner.namespace}/{context.owner.name}"


def process_name(context: Context) -> str:
    """A name for this process that no other process has, past and future ones included."""
    return f"{run_name(context)}/{context.process_index}/{secrets.token_hex(8)}"


def check_context(context: Context) -> None:
    """Judge the run on its topology, before any device is touched.

    Raises:
        BadConfiguration: One sentence for each problem.
    """
    problems = find_problems(context.run.spec, context.topology)
    if problems:
        raise BadConfiguration("; ".join(map(str, problems)))
    own_devices = context.own_devices
    if own_devices is not None and not context.on_cpu:  # the devices of a processor share its memory
        check_memory(context.run.spec, context.mesh, machine_memory(), devices=own_devices, where="this machine")


def adapt_to_devices(context: Context, device_count: int, platform: str) -> Context:
    """On one's own machine, take the devices that are there for a type that is not ``cpu``.

    Raises:
        BadConfiguration: There is no accelerator, or the mesh cannot be laid over the devices.
    """
    wanted = context.run.spec.accelerator.type
    family = context.run.spec.accelerator.row.family
    if context.in_pod and family != "cpu" and platform != family:
        raise BadConfiguration(
            f"spec.image: JAX sees no {family.upper()} but platform {platform} on a host of type {wanted}; take an image that is built for "
            f"it (ACCELERATOR={'cuda' if family == 'gpu' else family})"
        )
    if context.in_pod or wanted == "cpu":
        if device_count != context.topology.devices:
            raise BadConfiguration(
                f"spec.accelerator: {wanted} {context.run.spec.accelerator.topology} x {context.topology.slices} has "
                f"{counted(context.topology.devices, 'device')}, but JAX sees {device_count} of platform {platform}; change topology or "
                "slices, or free the devices"
            )
        return context
    if platform == "cpu" and not context.on_cpu:
        raise BadConfiguration(
            f"spec.accelerator.type: {wanted} is a {family.upper()}, and JAX sees none on this machine; install its support with "
            f"{install('tpu' if family == 'tpu' else 'cuda')}, or train on the processor with --device cpu"
        )
    topology = Topology(1, 1, device_count)
    try:
        run_mesh(context.run.spec, topology)
    except InvalidMesh as error:
        raise BadConfiguration(f"{error} (on {counted(device_count, f'{platform} device')} of this machine)") from None
    found = replace(context, topology=topology)
    # The memory of the document's own accelerator says nothing about the devices that are here.
    problems = [problem for problem in find_problems(context.run.spec, topology) if problem.field != "spec.accelerator.topology"]
    if problems:
        raise BadConfiguration(
            "; ".join(f"{problem} (on {counted(device_count, f'{platform} device')} of this machine)" for problem in problems)
        )
    if context.on_cpu:
        check_memory(context.run.spec, found.mesh, machine_memory(), devices=1, where="this machine")
    return found


def _with_root(run: TrainingRun, root: str) -> TrainingRun:
    settings = run.spec.checkpoint.model_dump(exclude={"endpoint", "region", "credentials_secret", "volume_claim"})
    checkpoint = type(run.spec.checkpoint).model_validate({**settings, "root": root})
    return run.model_copy(update={"spec": run.spec.model_copy(update={"checkpoint": checkpoint})})
