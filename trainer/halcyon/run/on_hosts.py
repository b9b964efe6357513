"""A run on several hosts without a cluster: this process becomes the supervisor of its host, as in a pod.

The supervisors start the processes of all hosts again in place. The attempt is the one after the last one in the
checkpoint root, which all hosts must reach, unless a manager has started this process (`halcyon_cli.hosts`).

A manager says the attempt in the variables of a pod, and the secret of the run in the first line of standard input.
The end of that is a notice. This process answers in lines of standard output: ssh and srun carry them from every host,
a killed process leaves none, and no further port or file is needed.
"""

import errno
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import yaml

from halcyon.host.agent.place import Place
from halcyon.host.agent.supervisor import Supervisor
from halcyon.host.errors import BadConfiguration
from halcyon.host.launchers import Member, own_devices
from halcyon.run.context import check_context, contents_of, resolve_context
from halcyon_api.counting import counted
from halcyon_api.environment import SAVE_TOKEN, PodEnvironment
from halcyon_api.host_lines import PORT, REPORT
from halcyon_api.spec.accelerator import Topology
from halcyon_api.training_run import TrainingRun


def topology_of(run: TrainingRun, processes: int) -> Topology:
    """The topology of the run with this number of processes: one a host, or as many on each as divide its devices.

    Raises:
        BadConfiguration: The hosts of the document cannot have them.
    """
    accelerator = run.spec.accelerator
    asked = accelerator.resolve()
    each, rest = divmod(processes, asked.processes)
    if rest or not each or asked.devices_per_host % each:
        raise BadConfiguration(
            f"spec.accelerator: {accelerator.type} with {counted(asked.slices, 'slice')} has "
            f"{counted(asked.processes, 'host')} of {counted(asked.devices_per_host, 'device')}, which "
            f"{counted(processes, 'process', 'processes')} cannot share; start one process a host, or one a device"
        )
    return Topology(asked.slices, asked.hosts_per_slice * each, asked.devices_per_host // each)


def supervise(
    document: Path | Mapping[str, Any], member: Member, compilation_cache: Path | None, **options: Any
) -> NoReturn:
    """Train as one process of a run on several hosts. Exits as a pod does.

    Args:
        document: The run document.
        member: The place of this process.
        compilation_cache: Directory of compiled programs.
        options: See `resolve_context`.

    Raises:
        BadConfiguration: The run cannot be trained so.
    """
    attempt, restart, resume_step = (
        int(os.environ.get(f"HALCYON_{name}", 0)) for name in ("ATTEMPT", "RESTART", "RESUME_STEP")
    )
    if attempt:
        _read_manager()
    context = resolve_context(document, {}, **options)
    of_host = context.topology.devices_per_host
    context = replace(context, topology=topology_of(context.run, member.processes))
    check_context(context)
    topology, token = context.topology, os.environ.get(SAVE_TOKEN, "")
    host, _, meets_at = member.coordinator.rpartition(":")
    host = host.strip("[]")
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise BadConfiguration(
            f"--coordinator: this machine finds no address of {host}, the host of process 0: {error.strerror}"
        ) from None
    in_memory = context.spec.checkpoint.memory is not None
    if in_memory and not token:
        raise BadConfiguration(
            f"spec.checkpoint.memory: the hosts send each other the state; give all of them one secret in {SAVE_TOKEN}"
        )
    folder = Path(tempfile.mkdtemp(prefix="halcyon-", dir="/dev/shm" if in_memory else None))  # noqa: S108 - mkdtemp
    own, log = folder / "run.yaml", folder / "termination-log"
    contents = contents_of(context.run)
    if attempt:
        port = _free_port(context.spec.telemetry.port if member.process == 0 else 0)
        contents["spec"].setdefault("telemetry", {})["port"] = port
        sys.stdout.write(f"{PORT}{port}\n")
        sys.stdout.flush()
    own.write_text(yaml.safe_dump(contents), encoding="utf-8")
    log.touch()
    slice_index, index = divmod(member.process, topology.hosts_per_slice)
    environment = PodEnvironment(
        run_document=str(own),
        run_uid=context.owner.uid,
        namespace=context.owner.namespace,
        attempt=attempt,
        restart=restart,
        job_index=slice_index,
        completion_index=index,
        slices=topology.slices,
        hosts_per_slice=topology.hosts_per_slice,
        devices_per_host=topology.devices_per_host,
        coordinator=member.coordinator,
        mesh=context.mesh,
        resume_step=resume_step,
        termination_log=str(log),
        save_token=token,
        memory=str(folder / "memory") if in_memory else None,
    )
    os.environ.update(environment.variables())
    port = int(meets_at) + 1
    os.environ["HALCYON_AGENT_PORT"] = str(port)
    if compilation_cache is not None:
        os.environ["HALCYON_COMPILATION_CACHE"] = str(compilation_cache)
    gpus = own_devices(os.environ.get("CUDA_VISIBLE_DEVICES"), member.local, topology.devices_per_host, of_host)
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    try:
        code = Supervisor(Place.of(os.environ), [str(own)]).run()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise BadConfiguration(
            f"--coordinator: another program of this machine has port {port}, at which the hosts meet; give another one"
        ) from None
    finally:
        report = log.read_text(encoding="utf-8")
        shutil.rmtree(folder)
    if attempt and report:
        sys.stdout.write(f"{REPORT}{' '.join(report.splitlines())}\n")  # in part only, if its writer was killed
    sys.stdout.flush()
    os._exit(code)


def _read_manager() -> None:
    """Take the secret from the first line of standard input, and its end as a notice. The trainers get none of it."""
    kept = os.dup(0)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    lines = os.fdopen(kept, encoding="ascii")
    os.environ[SAVE_TOKEN] = lines.readline().strip()

    def wait() -> None:
        lines.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="halcyon-manager", daemon=True).start()


def _free_port(port: int) -> int:
    """The port if this host has it free, else another one, as for 0: processes of one host must not choose the same."""
    for tried in (port, 0):
        try:
            with socket.create_server(("", tried)) as server:
                return server.getsockname()[1]
        except OSError:
            continue
    return port
