"""The command ``halcyon sweep``, from the documents to the table of what its members have done."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from halcyon.commands.errors import console, report_root_errors
from halcyon.commands.views.tables import FittedTable
from halcyon.host.output import outlive_reader
from halcyon_api.edits.changes import shown
from halcyon_api.local_roots import root_address
from halcyon_cli.history_report import series, together
from halcyon_cli.output import Rejected, say
from halcyon_cli.report import number, span
from halcyon_cli.sweep_members import Member, members_of
from halcyon_cli.sweep_running import SweepProgress, SweepRunner

if TYPE_CHECKING:
    from halcyon.telemetry.history.reading import History
    from halcyon_cli.sweep_running import End

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


_STYLES = {"complete": "green", "failed": "red", "stopped": "yellow", "not begun": "dim"}


@dataclass(frozen=True)
class Result:
    """What a member has done.

    Attributes:
        member: The member.
        history: Its history; it has no process group if the member never began.
        end: How it ended in this call; None if it was complete before.
    """

    member: Member
    history: History
    end: End | None = None

    @property
    def state(self) -> str:
        """Its state in a word or two."""
        return "complete" if self.end is None else self.end.state

    @property
    def best(self) -> tuple[float, int] | None:
        """Its lowest held-out loss, without evaluations its last loss, and the step of it; None without either, or if
        the last loss is no number.
        """
        steps, values = series(together(self.history), "loss")
        if values:
            return min(zip(values, steps, strict=True))
        steps, values = series(self.history.steps[-1:], "loss")
        return (values[0], steps[0]) if values else None


def read_result(member: Member, end: End | None = None) -> Result:
    """Read what a member has done.

    Raises:
        StoreFailure: Its root did not answer.
    """
    from halcyon.host.storage.store import Store
    from halcyon.telemetry.history.reading import read_history

    return Result(member, read_history(Store(member.run.spec.checkpoint)), end)


def is_complete(result: Result) -> bool:
    """Whether a member has completed with its present values, so that it need not be trained.

    Raises:
        StoreFailure: Its root did not answer.
    """
    from halcyon.checkpoint.fingerprints import differences, fingerprints, fingerprints_of
    from halcyon.host.storage.store import Store
    from halcyon_cli.roots import sections_in

    spec = result.member.run.spec
    if not result.history.complete or result.history.planned_steps != spec.trainer.steps:
        return False
    now = fingerprints(spec, data={}).documents
    then = sections_in(Store(spec.checkpoint))
    return not differences(fingerprints_of(now), fingerprints_of({**then, "data": {}}))


def best_of(results: Sequence[Result]) -> Result | None:
    """The complete member with the lowest loss: the held-out loss if every complete member has one, else the last loss
    of the training. None: there is no such number.
    """
    found = [result for result in results if result.state == "complete" and result.best is not None]
    evaluated = [bool(together(result.history)) for result in found]
    if any(evaluated) and not all(evaluated):
        return None
    return min(found, key=lambda result: result.best or (0.0, 0), default=None)


def results_view(results: Sequence[Result]) -> FittedTable:
    """One line for each member: its changed values, its state, its losses and its time."""
    paths = list(dict.fromkeys(path for result in results for path in result.member.variant.values))
    short = [path.rsplit(".", 1)[-1] for path in paths]
    titles = [name if short.count(name) == 1 else path for name, path in zip(short, paths, strict=True)]
    best, numbers = best_of(results), ("step", "loss", "held-out loss", "lowest held-out loss", "time")
    table = FittedTable("member", *titles, "state", numbers=numbers)
    for result in results:
        history, values = result.history, result.member.variant.values
        evaluations = together(history)
        _, validation = series(evaluations, "loss")
        table.add_row(
            Text(result.member.name),
            *(Text(shown(values[path]) if path in values else "") for path in paths),
            Text(result.state, _STYLES[result.state]),
            f"{history.done_steps}/{result.member.run.spec.trainer.steps}",
            number(history.steps[-1].get("loss") if history.steps else None),
            number(evaluations[-1].get("loss") if evaluations else None),
            number(min(validation, default=None)),
            span(history.seconds.total),
            style="bold" if result is best else "",
        )
    return table


def best_sentence(results: Sequence[Result]) -> str | None:
    """Names the best member; None: there is none."""
    best = best_of(results)
    if best is None or best.best is None:
        return None
    loss, step = best.best
    values = ", ".join(f"{path} {shown(value)}" for path, value in best.member.variant.values.items())
    kind = "held-out loss" if together(best.history) else "loss"
    root = best.history.root.removeprefix("file://")
    others = [one.member.name for one in results if one.state != "complete" or one.best is None]
    left_out = f"; not compared: {', '.join(others)}" if others else ""
    return f"best: {best.member.name} ({values}): {kind} {loss:.4f} at step {step}; its root is {root}{left_out}"
