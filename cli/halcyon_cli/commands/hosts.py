"""Commands that run a document on hosts without a cluster: slurm and launch."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from halcyon.commands.errors import report_errors, report_root_errors
from halcyon.commands.options import NO_CHANGES, AtLeast0, Changes, Document, resolved
from halcyon.host.errors import BadConfiguration
from halcyon_api.counting import counted
from halcyon_api.training_run import TrainingRun

if TYPE_CHECKING:
    from halcyon_cli.hosts.places import Places

NOTICE_SECONDS = 120
"""Time before the end of the job's time at which the processes save and end."""
_SCRIPT = """\
#!/bin/bash
{directives}
exec {command}
"""


def job_script(run: TrainingRun, command: Sequence[str], options: Sequence[str] = (), spares: int = 0) -> str:
    """The script for ``sbatch``. Pure.

    Args:
        run: The run.
        command: The manager of the run, on the nodes.
        options: Further options of ``sbatch``. They win over those of the document.
        spares: Number of nodes beyond those that the run needs.

    Raises:
        BadConfiguration: SLURM cannot run it.
    """
    spec = run.spec
    row = spec.accelerator.row
    if row.family == "tpu":
        raise BadConfiguration(
            f"spec.accelerator.type: {row.name} is a TPU of Google Cloud, which SLURM has not; take a GPU, or cpu"
        )
    if spec.after is not None and not any(option.startswith("--dependency") for option in options):
        raise BadConfiguration(
            f"spec.after: SLURM knows a job by its number; add --dependency=afterok:JOB with that of {spec.after.run}"
        )
    topology = spec.accelerator.resolve()
    queue = spec.scheduling.queue
    directives: dict[str, object] = {
        "job-name": run.metadata.name,
        "output": f"{run.metadata.name}-%j.log",
        "open-mode": "append",
        "nodes": topology.processes + spares,
        "ntasks-per-node": 1,
        "gpus-per-node": topology.devices_per_host if row.family == "gpu" else None,
        "partition": None if queue is None else queue.name,
        "qos": None if queue is None else queue.priority_class,
        "requeue": "",
        "no-kill": "",  # a lost node leaves the others to the job
        "signal": f"B:USR1@{NOTICE_SECONDS}",
    }
    given = [f"--{name}{f'={value}' if value != '' else ''}" for name, value in directives.items() if value is not None]
    return _SCRIPT.format(
        directives="\n".join(f"#SBATCH {shlex.quote(option)}" for option in (*given, *options)),
        command=shlex.join(command),
    )


def slurm(
    document: Document,
    options: Annotated[list[str] | None, typer.Argument()] = None,
    submit: bool = False,
    spares: AtLeast0 = 0,
    changes: Changes = NO_CHANGES,
    in_job: Annotated[bool, typer.Option("--in-job", hidden=True)] = False,
) -> None:
    """Print a job script of SLURM for a run, or submit it.

    Args:
        options ([-- OPTIONS OF SBATCH]): Such as --account=NAME --time=12:00:00.
        submit: Give the script to sbatch instead of printing it.
        spares: Nodes beyond those that the run needs; they take the place of lost ones.
    """
    with report_errors(document):
        run, further = resolved(document, changes), _further(changes)
        if in_job:
            from halcyon_cli.hosts.places import Slurm

            again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
            _manage(run, document, further, Slurm(os.environ["SLURM_JOB_ID"]), by_user=not again)
        command = (_program(), "slurm", str(document.resolve()), "--in-job", *further)
        script = job_script(run, command, options or (), spares)
        if not submit:
            typer.echo(script, nl=False)
            return
        try:
            subprocess.run(["sbatch"], input=script, text=True, check=True)
        except FileNotFoundError:
            raise BadConfiguration("sbatch is not on this machine; go to one that has SLURM's commands") from None
        except subprocess.CalledProcessError as error:
            raise typer.Exit(error.returncode) from None  # sbatch has said why


def launch(
    document: Document,
    hosts: Annotated[str, typer.Option()],
    options: Annotated[list[str] | None, typer.Argument()] = None,
    coordinator: str | None = None,
    changes: Changes = NO_CHANGES,
) -> None:
    """Train a run on several hosts, each reached with ssh. The document has the same path on all of them.

    Args:
        hosts (A,B,C): The hosts, by the names that ssh knows. A is process 0's; those that the run does not need are
            spares.
        options ([-- OPTIONS OF SSH]): Such as -p 2222 -i KEY.
        coordinator (HOST:PORT): Where the hosts meet: this port of the first host, and the next. Default: 9000.
    """
    from halcyon_cli.hosts.places import Ssh

    with report_errors(document):
        run = resolved(document, changes)
        names = list(dict.fromkeys(name for name in hosts.split(",") if name))
        needed = run.spec.accelerator.resolve().processes
        if len(names) < needed:
            raise BadConfiguration(
                f"--hosts: {counted(len(names), 'host')} cannot run the document, whose accelerator has "
                f"{counted(needed, 'host')}; name more, or change spec.accelerator"
            )
        if any(name.startswith("-") for name in names):
            raise BadConfiguration(f"--hosts: {hosts} has a name that begins with a dash")
        _manage(run, document, _further(changes), Ssh(names, options or (), coordinator))


def _manage(run: TrainingRun, document: Path, further: Sequence[str], places: Places, *, by_user: bool = True) -> None:
    from halcyon_cli.hosts.manager import Manager

    program = (_program(), "train", str(document.resolve()), *further)
    with report_root_errors():
        code = Manager(run, places, program, by_user=by_user).manage()
    raise typer.Exit(code)


def _program() -> str:
    """This command, which has the same path on all hosts."""
    own = Path(sys.executable).with_name("halcyon")
    return str(own) if own.exists() else "halcyon"


def _further(changes: Changes) -> list[str]:
    """The options that every process gets too."""
    found = [word for one in changes.defaults or () for word in ("--defaults", str(one.resolve()))]
    return found + [word for one in changes.overrides or () for word in ("--set", one)]
