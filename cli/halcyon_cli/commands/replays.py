"""The command that computes steps of a run again in the cluster, and says which ones are proved."""

from typing import Annotated

import typer

from halcyon.commands.options import AtLeast1, StoreSettings
from halcyon_api.defaults.status import read_values
from halcyon_api.names import LABEL_REPLAY_OF
from halcyon_api.status.run_status import parse_status
from halcyon_cli.cluster import Runs
from halcyon_cli.commands.options import CURRENT, Cluster, Run
from halcyon_cli.output import Rejected, say
from halcyon_cli.roots import live_document, store_of_run


def replay_run(
    run: Run,
    *,
    cluster: Cluster = CURRENT,
    first: Annotated[int | None, typer.Option("--from", min=0)] = None,
    to: AtLeast1 | None = None,
    pieces: bool = False,
    queue: str | None = None,
    priority_class: str | None = None,
    endpoint: str | None = None,
) -> None:
    """Compute steps of a run again in the cluster, and compare every bit; without --from and --pieces: what is proved.

    Each replay is a TrainingRun of task replay. It succeeds if all bits are those of the run.

    Args:
        first: Step of the checkpoint to begin with.
        to: The last step. Default: that of the next checkpoint.
        pieces: One replay between each two checkpoints, from --from to --to.
        queue: LocalQueue in which they wait. Default: that of the run.
        priority_class: PriorityClass of their pods. Default: that of the run.
        endpoint: With --pieces: address of the S3 store for this machine.
    """
    from halcyon_cli import replays

    with cluster.connected() as runs:
        if first is None and not pieces:
            _report(runs, run)
            return
        live = runs.get(run)
        document = live_document(live, read_values(parse_status(live.get("status")).defaults))
        if document["spec"].get("task", "train") != "train":
            raise Rejected(f"run {run} has task {document['spec']['task']}, so it has no steps to compute again")
        if document["spec"]["checkpoint"]["root"].startswith("file://"):
            raise Rejected(
                f"only the pods of run {run} mount its root {document['spec']['checkpoint']['root']}; replay it with "
                "`halcyon replay` on a machine that mounts the volume"
            )
        wanted: list[tuple[int, int | None]] = [(first or 0, to)]
        if pieces:
            from halcyon.checkpoint.opening import committed_steps
            from halcyon.commands.errors import report_root_errors

            with report_root_errors():
                steps = [entry.step for entry in committed_steps(store_of_run(runs, run, StoreSettings(endpoint)))]
            wanted = [*replays.pieces(steps, first, to)]
            if not wanted:
                raise Rejected(
                    f"run {run} has checkpoints of steps {', '.join(map(str, sorted(steps)))}: give two of them"
                )
        for piece in wanted:
            made = replays.replay_of(document, piece, queue, priority_class)
            runs.create(made)
            say(f"{made['metadata']['name']} computes the steps after {piece[0]} again")
        say(f"then: kubectl halcyon replay {run}")


def _report(runs: Runs, run: str) -> None:
    """Print the replays of a run, and the steps that they have proved."""
    from halcyon_cli import replays

    found = [one for one in runs.list() if one["metadata"].get("labels", {}).get(LABEL_REPLAY_OF) == run]
    if not found:
        raise Rejected(f"run {run} has no replays; begin one with: kubectl halcyon replay {run} --from STEP")
    for name, steps, phase, message in map(replays.row, found):
        say(f"{name}: steps {steps}: {phase}: {message}")
    parts = ", ".join(f"{begin + 1} to {end}" for begin, end in replays.proved(found))
    say(f"proved: steps {parts}" if parts else "no step is proved yet")
