"""The place of a process that another launcher has started on one of several hosts: SLURM, torchrun, or an MPI. Pure.

Each launcher says it in environment variables, by the documentation of SLURM's ``srun``, of PyTorch's ``torchrun``, of
Open MPI's ``mpirun`` and of MPICH's and Intel's ``mpiexec``. An MPI does not say where process 0 is, so it needs the
option ``--coordinator``; and options come before variables.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from halcyon.host.errors import BadConfiguration

_FIRST_PORT, _PORTS = 61440, 2048
"""Ports of SLURM's steps, in pairs, above those that Linux gives to clients (32768 to 60999)."""


@dataclass(frozen=True)
class Member:
    """A process of a run on several hosts.

    Attributes:
        process: Its index.
        processes: Number of processes.
        coordinator: ``host:port`` of JAX's coordination service, on the host of process 0. The supervisors meet at the
            port after it.
        local: Its index among the processes of its host; None: it is not known.
    """

    process: int
    processes: int
    coordinator: str
    local: int | None = None


@dataclass(frozen=True)
class _Launcher:
    """The variables of a launcher: a process has been started by it if all of `process` and `processes` are set."""

    name: str
    process: str
    processes: str
    local: str
    address: Callable[[Mapping[str, str]], str] | None = None
    """Where process 0 is; None: the launcher does not say it."""


def _of_slurm(environ: Mapping[str, str]) -> str:
    for variable, what in (("SLURM_HET_SIZE", "a heterogeneous job"), ("SLURM_ARRAY_TASK_ID", "a job array")):
        if variable in environ:
            raise BadConfiguration(f"{variable} is set, so this is part of {what}; train each run in a job of its own")
    port = port_of(int(environ["SLURM_JOB_ID"]), int(environ.get("SLURM_STEP_ID", 0)))
    return f"{first_host(environ['SLURM_STEP_NODELIST'])}:{port}"


def _of_torchrun(environ: Mapping[str, str]) -> str:
    return f"{environ['MASTER_ADDR']}:{int(environ['MASTER_PORT']) + 1}"  # torchrun itself listens on its port


_LAUNCHERS = (
    _Launcher("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", _of_torchrun),
    _Launcher("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    _Launcher("MPI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    _Launcher("SLURM", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", _of_slurm),
)
"""In this order: SLURM also sets its variables for the processes of an MPI or of torchrun in a job."""


def member(
    environ: Mapping[str, str],
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> Member | None:
    """The place of this process; None: it is the only one of its run.

    Args:
        environ: The process's environment.
        coordinator: The option ``--coordinator``.
        processes: The option ``--processes``.
        process: The option ``--process``.

    Raises:
        BadConfiguration: It is said in part only, or a variable is malformed.
    """
    found = next((one for one in _LAUNCHERS if one.process in environ and one.processes in environ), None)
    local = None
    try:
        if found is not None:
            processes = int(environ[found.processes]) if processes is None else processes
            process = int(environ[found.process]) if process is None else process
            local = int(environ[found.local]) if found.local in environ else None
            if coordinator is None and processes > 1 and found.address is not None:
                coordinator = found.address(environ)
    except (KeyError, ValueError) as error:
        name = found.name if found is not None else ""
        raise BadConfiguration(f"a variable of {name} is missing or malformed: {error}") from None
    if processes in (None, 1) and coordinator is None and not process:
        return None
    if processes is None or process is None or coordinator is None:
        by = f"; {found.name} does not say where process 0 is" if found is not None else ""
        raise BadConfiguration(
            "a run on several hosts needs --coordinator HOST:PORT (the host of process 0), --processes and "
            f"--process{by}"
        )
    if not 0 <= process < processes:
        raise BadConfiguration(f"--process: {process} is not one of {processes} processes, which begin with 0")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65535:
        raise BadConfiguration(f"--coordinator: {coordinator} is not HOST:PORT with a port below 65535")
    return Member(process, processes, coordinator, local)


def port_of(job: int, step: int) -> int:
    """The first of the two ports of a step of SLURM, which another step seldom has at the same time."""
    return _FIRST_PORT + 2 * ((job * 31 + step) % _PORTS)


def first_host(nodes: str) -> str:
    """The first host of SLURM's list, such as ``a100-[003-007,9],b`` (``scontrol show hostnames``)."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^,\-\]]*)[^\]]*\]", r"\1", first[0] if first else "")


def own_devices(visible: str | None, local: int | None, own: int, of_host: int) -> str | None:
    """The GPUs of a process that shares those of its host with others, as a value of ``CUDA_VISIBLE_DEVICES``; None:
    all that it sees.

    Args:
        visible: The variable now.
        local: Index of the process on its host.
        own: Number of GPUs of each process.
        of_host: Number of GPUs of the host.
    """
    seen = visible.split(",") if visible else [str(number) for number in range(of_host)]
    if local is None or own == of_host or len(seen) <= own:
        return None
    return ",".join(seen[local * own : (local + 1) * own])
