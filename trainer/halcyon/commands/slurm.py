"""``halcyon slurm``: a run document as a job of SLURM.

The job is put back into the queue (``scontrol requeue``) after a notice, such as two minutes before its time ends, and
after the loss of a node; it then goes on from its last checkpoint. Other failures end it: the processes have started
again in place before, and a second failure without a checkpoint between them repeats.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from halcyon.commands.errors import report_errors
from halcyon.commands.options import Defaults, Document, Overrides, resolved
from halcyon.host.errors import BadConfiguration
from halcyon_api.ends import ExitCode
from halcyon_api.training_run import TrainingRun

NOTICE_SECONDS = 120
"""Time before the end of the job's time at which the processes save and end. So long the others have when one has
ended, too: SLURM does not start a lost one again.
"""
_SCRIPT = """\
#!/bin/bash
{directives}
# The token lets only the processes of this job meet, and ask each other for checkpoints.
HALCYON_SAVE_TOKEN=$(head -c 24 /dev/urandom | base64)
export HALCYON_SAVE_TOKEN
notice() {{ scancel --signal=TERM "$SLURM_JOB_ID.0"; }} # srun itself would kill the processes
trap notice USR1 TERM
srun --no-kill --kill-on-bad-exit=0 --wait={wait} {command} &
step=$! code=0 again=
# A signal ends `wait` before the step has ended.
while kill -0 "$step" 2>/dev/null; do wait "$step"; code=$?; done
case "$code" in
  {again}) again=yes ;; # a notice, or a lost node: go on from the checkpoint
  137) [ "${{SLURM_RESTART_COUNT:-0}}" -lt {most} ] && again=yes ;; # all processes of a host were killed
esac
[ "$again" ] && scontrol requeue "$SLURM_JOB_ID"
exit "$code"
"""


def job_script(run: TrainingRun, document: str, options: Sequence[str] = (), program: str = "halcyon") -> str:
    """The script for ``sbatch``. Pure.

    Args:
        run: The run.
        document: Path of its document, on all nodes.
        options: Further options of ``sbatch``. They win over those of the document.
        program: The command, on the nodes.

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
        "nodes": topology.processes,
        "ntasks-per-node": 1,
        "gpus-per-node": topology.devices_per_host if row.family == "gpu" else None,
        "partition": None if queue is None else queue.name,
        "qos": None if queue is None else queue.priority_class,
        "requeue": "",
        "signal": f"B:USR1@{NOTICE_SECONDS}",
    }
    given = [f"--{name}{f'={value}' if value != '' else ''}" for name, value in directives.items() if value is not None]
    return _SCRIPT.format(
        directives="\n".join(f"#SBATCH {shlex.quote(option)}" for option in (*given, *options)),
        command=shlex.join([program, "train", document]),
        again=f"{ExitCode.PREEMPTED} | {ExitCode.NOT_REJOINED}",
        most=spec.recovery.max_restarts,
        wait=NOTICE_SECONDS,
    )


def slurm(
    document: Document,
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- OPTIONS OF SBATCH]", help="Such as --account=NAME --time=12:00:00."),
    ] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Give the script to sbatch instead of printing it.")] = False,
    defaults: Defaults = None,
    overrides: Overrides = None,
) -> None:
    """Print a job script of SLURM for a run, or submit it."""
    with report_errors(document):
        own = Path(sys.executable).with_name("halcyon")
        run = resolved(document, defaults, overrides)
        script = job_script(run, str(document.resolve()), options or (), str(own) if own.exists() else "halcyon")
        if not submit:
            typer.echo(script, nl=False)
            return
        try:
            subprocess.run(["sbatch"], input=script, text=True, check=True)
        except FileNotFoundError:
            raise BadConfiguration("sbatch is not on this machine; go to one that has SLURM's commands") from None
        except subprocess.CalledProcessError as error:
            raise typer.Exit(error.returncode) from None  # sbatch has said why
