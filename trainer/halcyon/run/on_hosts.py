"""A run on several hosts without a cluster: this process becomes the supervisor of its host, as in a pod.

The supervisors start the processes of all hosts again in place, and the attempt is the one after the last one in the
checkpoint root, which all hosts must reach.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import yaml

from halcyon.host.agent.place import Place
from halcyon.host.agent.supervisor import Supervisor
from halcyon.host.errors import BadConfiguration
from halcyon.host.launchers import Member, own_devices
from halcyon.run.context import Context, check_context, contents_of
from halcyon_api.counting import counted
from halcyon_api.environment import SAVE_TOKEN, PodEnvironment
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


def supervise(context: Context, member: Member, compilation_cache: Path | None) -> NoReturn:
    """Train as one process of a run on several hosts. Exits as a pod does.

    Args:
        context: The run, on the user's own machine.
        member: The place of this process.
        compilation_cache: Directory of compiled programs.

    Raises:
        BadConfiguration: The run cannot be trained so.
    """
    of_host = context.topology.devices_per_host
    context = replace(context, topology=topology_of(context.run, member.processes))
    check_context(context)
    topology, token = context.topology, os.environ.get(SAVE_TOKEN, "")
    host = member.coordinator.rpartition(":")[0].strip("[]")
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
    document, log = folder / "run.yaml", folder / "termination-log"
    document.write_text(yaml.safe_dump(contents_of(context.run)), encoding="utf-8")
    log.touch()
    slice_index, index = divmod(member.process, topology.hosts_per_slice)
    environment = PodEnvironment(
        run_document=str(document),
        run_uid=context.owner.uid,
        namespace=context.owner.namespace,
        attempt=0,
        restart=0,
        job_index=slice_index,
        completion_index=index,
        slices=topology.slices,
        hosts_per_slice=topology.hosts_per_slice,
        devices_per_host=topology.devices_per_host,
        coordinator=member.coordinator,
        mesh=context.mesh,
        resume_step=0,
        termination_log=str(log),
        save_token=token,
        memory=str(folder / "memory") if in_memory else None,
    )
    os.environ.update(environment.variables())
    port = int(member.coordinator.rpartition(":")[2]) + 1
    os.environ["HALCYON_AGENT_PORT"] = str(port)
    if compilation_cache is not None:
        os.environ["HALCYON_COMPILATION_CACHE"] = str(compilation_cache)
    gpus = own_devices(os.environ.get("CUDA_VISIBLE_DEVICES"), member.local, topology.devices_per_host, of_host)
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    try:
        code = Supervisor(Place.of(os.environ), [str(document)]).run()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise BadConfiguration(
            f"--coordinator: another program of this machine has port {port}, at which the hosts meet; give another one"
        ) from None
    finally:
        shutil.rmtree(folder)
    sys.stdout.flush()
    os._exit(code)
