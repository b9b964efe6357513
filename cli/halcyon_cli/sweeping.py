"""The command ``halcyon sweep``, from the documents to the table."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from halcyon.commands.errors import console, report_root_errors
from halcyon.host.output import outlive_reader
from halcyon_api.local_roots import root_address
from halcyon_cli.output import Rejected, say
from halcyon_cli.sweep_members import members_of
from halcyon_cli.sweep_results import best_sentence, is_complete, read_result, results_view
from halcyon_cli.sweep_running import SweepProgress, SweepRunner

_STORE = ("endpoint", "region", "credentialsSecret", "volumeClaim")
"""Settings of the root of the document, which another root does not have."""


def train_sweep(
    document: Path,
    variants: Path,
    defaults: Sequence[Path],
    overrides: Sequence[str],
    checkpoint_root: str | None,
    *,
    at_once: int,
    stop_on_failure: bool,
    words: Sequence[str],
) -> bool:
    """Train the members of a sweep that are not complete, and print the table.

    Args:
        document: The run document that all members begin with.
        variants: The sweep document.
        defaults: Files with the runs' defaults, the most specific first.
        overrides: Changes of the run before the sweep's, each ``PATH=VALUE``.
        checkpoint_root: Replaces ``spec.checkpoint.root`` of the run.
        at_once: Largest number of members that train at the same time.
        stop_on_failure: Whether a failed member stops the others.
        words: Further arguments of ``halcyon train``.

    Returns:
        Whether all members are complete.

    Raises:
        Rejected: The run or the sweep is not valid, or a member does not train.
        typer.Exit: A root does not answer; the sentence is printed.
    """
    outlive_reader()
    if checkpoint_root is not None:
        removed = [f"spec.checkpoint.{name}=null" for name in _STORE]
        overrides = [*overrides, *removed, f"spec.checkpoint.root={root_address(checkpoint_root)}"]
    members = members_of(document, variants, defaults, overrides)
    for member in members:
        if member.run.spec.task != "train":
            raise Rejected(f"{document}: spec.task is {member.run.spec.task}; give a run of task train")
    with report_root_errors():
        found = [read_result(member) for member in members]
        done = {result.member.name for result in found if is_complete(result)}
    missing = [member for member in members if member.name not in done]
    if done:
        say(f"{len(done)} of {len(members)} members are complete already")
    folder, shown = Path(tempfile.mkdtemp(prefix="halcyon-sweep-")), console()
    with SweepProgress(shown, len(missing)) as progress:
        ends = SweepRunner(folder, at_once, stop_on_failure, words, progress).run(missing) if missing else {}
    with report_root_errors():
        results = [read_result(member, ends.get(member.name)) for member in members]
    shown.print(results_view(results))
    for result in results:
        for damage in result.history.damages:
            say(f"{result.member.name}: not read: {damage}")
    if (best := best_sentence(results)) is not None:
        say(best)
    failed = [name for name, end in ends.items() if end.state == "failed"]
    if failed:
        say(f"failed: {', '.join(failed)}; their documents and logs are in {folder}; the same command tries them again")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    if any(end.state in ("stopped", "not begun") for end in ends.values()):
        say("the same command goes on")
    return all(result.state == "complete" for result in results)
