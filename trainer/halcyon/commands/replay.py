"""The command ``halcyon replay``: computes steps of a run again from one of its checkpoints, and compares every bit.

A process trains the document of the replay (task ``replay``) in a folder of its own. The root of the run is only read.
With ``--bisect STEP`` it shows the documents of the batches around a jump of the loss, and computes steps without some.
"""

from __future__ import annotations

import json as json_format
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from halcyon.commands import options
from halcyon.commands.errors import console, report_root_errors
from halcyon.commands.terminal import say
from halcyon.host.errors import BadConfiguration, TrainerExit
from halcyon_api.ends import EndCause, ExitCode
from halcyon_api.printable import harmless
from halcyon_api.replays import REPLAY_KEY, ReplayRecord, replay_document
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.status.progress import finite
from halcyon_api.training_run import TrainingRun
from halcyon_api.yaml_text import dump

if TYPE_CHECKING:
    from halcyon.run.bisecting import Bisected, DocumentPlace

_OPTIONS = {"spec.from.step": "--from", "spec.from.toStep": "--to"}
_BY_OPTION = re.compile("spec\\.from\\.(?:step|toStep)")


def replay(
    document: options.Document,
    *,
    first: Annotated[int | None, typer.Option("--from", min=0)] = None,
    to: options.AtLeast1 | None = None,
    changes: options.Changes,
    device: options.Device = None,
    json: options.Json = False,
    record: Path | None = None,
    bisect: Annotated[int | None, typer.Option(min=2)] = None,
    without: list[str] | None = None,
) -> None:
    """Compute steps of a run again from one of its checkpoints, and compare every bit of the losses and of the state.

    Only reads the run's root. Exits with 1 if something differs. Bits can be equal on the same kind of hardware, with
    the same mesh and versions; what differs is said first.

    Args:
        first: Step of the checkpoint to begin with.
        to: The last step. Default: that of the next checkpoint.
        record (FILE): Write what was found to this file as well, for `halcyon prove --replay`.
        bisect (STEP): Show the documents of the batches around a jump of the loss instead.
        without (STEP:ROW.NUMBER): With --bisect: leave out a document; may be repeated.
    """
    with report_root_errors():
        if record is not None:
            options.require_folder(record, "--record")
        run = options.valid_training(document, changes)
        if bisect is not None:
            if to is not None or record is not None:
                raise BadConfiguration("--bisect looks at batches and compares no run; leave out --to and --record")
            _show_spike(run, bisect, first, without or (), on_cpu=device == "cpu", as_json=json)
            return
        if first is None or without:
            missing = "--from: give the step of the checkpoint to begin with"
            raise BadConfiguration(missing if first is None else "--without: it is for --bisect; leave it out")
        found = replayed(run, first, to, () if device is None else ("--device", device), say)
        text = f"{found.model_dump_json(by_alias=True)}\n"
        if record is not None:
            record.write_text(text, encoding="utf-8")
    if json:
        sys.stdout.write(text)
    else:
        for sentence in found.sentences():
            console().print(sentence, highlight=False, markup=False)
    if not found.confirms:
        raise typer.Exit(ExitCode.FAILURE)


def replayed(
    run: TrainingRun, first: int, to: int | None, words: tuple[str, ...], say: Callable[[str], object]
) -> ReplayRecord:
    """Replay steps of a run: train the document of a replay in a folder that is deleted at the end.

    Args:
        run: The run, with its checkpoint root.
        first: Step of the checkpoint to begin with.
        to: The last step. None: that of the next checkpoint.
        words: Further arguments of ``halcyon train``.
        say: Is told what is known before the end, in sentences.

    Raises:
        BadConfiguration: There is no such checkpoint, or nothing to compare with.
        TrainerExit: The replay failed; the message has its last words.
    """
    from halcyon.commands.attestation.deriving import other_document
    from halcyon.host.storage.store import Store
    from halcyon.run.replay import read_original

    store = Store(run.spec.checkpoint)
    try:
        read_original(store, first, to, run.spec.trainer.steps)
    except BadConfiguration as error:
        raise BadConfiguration(_BY_OPTION.sub(lambda found: _OPTIONS[found[0]], str(error))) from None
    if others := other_document(store, run):
        raise BadConfiguration("; ".join(others))
    with tempfile.TemporaryDirectory(prefix="halcyon-replay-", ignore_cleanup_errors=True) as folder:
        root = f"file://{folder}/root"
        document = replay_document(run.document(), first, to, name="replay", root=root, cache=_cache_of(run))
        path = Path(folder) / "run.yaml"
        path.write_text(dump(document), encoding="utf-8")
        end = _trained(path, words, say)
        kept = Store(CheckpointSpec(root=root)).read(REPLAY_KEY).data
        cause = end.get("cause", "")
        if kept is None or (end["event"] != "done" and cause != EndCause.REPLAY_DIFFERS):
            kind = BadConfiguration if cause == EndCause.BAD_CONFIGURATION else TrainerExit
            raise kind(end["message"])
    return ReplayRecord.model_validate_json(kept, by_alias=True, by_name=False)


def _cache_of(run: TrainingRun) -> str | None:
    """The token caches below the root of a run. None: it has none there."""
    from halcyon.host.storage.store import Store

    place = f"{run.spec.checkpoint.root.rstrip('/')}/data"
    caches = Store(run.spec.checkpoint.but(root=place))
    return place if run.spec.data.cache.root is None and any(caches.list("")) else None


def _show_spike(
    run: TrainingRun, step: int, first: int | None, without: Sequence[str], *, on_cpu: bool, as_json: bool
) -> None:
    """Print the documents of the batches around a step, and the losses."""
    from halcyon.commands.views.tables import FittedTable

    found = bisected(run, step, first, without, _cache_of(run), on_cpu=on_cpu, say=say)
    if as_json:
        options.print_json(document_of(found, step))
        return
    for number in (step - 1, step):
        title = f"The documents of step {number} that raise its loss most"
        table = FittedTable(
            "document", "source", "text", numbers=("tokens", "loss", "raises it by"), drops=("source",), title=title
        )
        largest = sorted((one for one in found.documents if one.place.step == number), key=lambda one: -one.raises)
        for one in largest[:SHOWN]:
            numbers = f"{one.tokens:,}", f"{one.loss:.4f}", f"{one.raises:z.4f}"
            table.add_row(str(one.place), escape(one.source), escape(shown(one.text)), *numbers)
        console().print(table)
    for line in lines_of(found, step):
        console().print(line, highlight=False, markup=False)


def _trained(path: Path, words: tuple[str, ...], say: Callable[[str], object]) -> dict[str, Any]:
    """Train the document of a replay, and give the event of its end."""
    command = [sys.executable, "-m", "halcyon.commands.child", str(os.getpid()), "train", str(path), "--json", *words]
    end: dict[str, Any] = {}
    said = path.with_name("errors")
    with said.open("w") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        for line in child.stdout or ():
            event = json_format.loads(line) if line.startswith("{") else {}
            if event.get("event") == "warning":
                say(event["message"])
            if event.get("event") in ("done", "preempted", "error"):
                end = event
    finally:
        if child.poll() is None:
            child.terminate()
        child.wait()
    last = said.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    return end or {"event": "error", "message": f"the replay ended: {last or f'exit code {child.returncode}'}"}


SHOWN = 10
"""Documents of a step that are shown."""
_CHARACTERS = 60
AFTER = 2
"""Steps after the jump that are computed too."""


def places_of(words: Sequence[str]) -> list[DocumentPlace]:
    """The documents of ``--without``.

    Raises:
        BadConfiguration: One is not of the form STEP:ROW.NUMBER.
    """
    from halcyon.run.bisecting import DocumentPlace

    found: list[DocumentPlace] = []
    for word in words:
        step, _, rest = word.partition(":")
        row, _, number = rest.partition(".")
        if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in (step, row, number)):
            raise BadConfiguration(f"--without {word}: write STEP:ROW.NUMBER, as the table shows it, such as 1005:3.2")
        found.append(DocumentPlace(int(step), int(row), int(number)))
    return found


def bisected(
    run: TrainingRun, step: int, first: int | None, without: Sequence[str], cache: str | None, *, on_cpu: bool, say: Any
) -> Bisected:
    """Compute the steps around a jump of the loss again.

    Args:
        run: The run, with its checkpoint root.
        step: The step of the jump.
        first: Step of the checkpoint to begin with. None: the newest one two steps before.
        without: The documents to leave out, each STEP:ROW.NUMBER.
        cache: Root of the token caches. None: as in the run.
        on_cpu: Compute on the processor instead of the document's accelerator.
        say: Is told what is known before the end, in sentences.

    Raises:
        BadConfiguration: There is no such checkpoint, or no such document.
        TrainerExit: The steps cannot be computed.
    """
    from halcyon.checkpoint.opening import committed_steps
    from halcyon.host.storage.store import Store
    from halcyon.run.bisecting import bisect

    steps, gone = run.spec.trainer.steps, places_of(without)
    if not 2 <= step <= steps:
        raise BadConfiguration(f"--bisect {step}: give a step from 2 to {steps}")
    if first is None:
        store = Store(run.spec.checkpoint)
        before = [entry.step for entry in committed_steps(store) if entry.step <= step - 2]
        if not before:
            raise BadConfiguration(f"--bisect {step}: {store.root} has no checkpoint at least two steps before it")
        first = max(before)
    if first > step - 2:
        raise BadConfiguration(f"--from {first}: the batches of steps {step - 1} and {step} need at most {step - 2}")
    with tempfile.TemporaryDirectory(prefix="halcyon-replay-", ignore_cleanup_errors=True) as folder:
        root = f"file://{folder}/root"
        last = min(step + AFTER, steps)
        document = replay_document(run.document(), first, last, name="replay", root=root, cache=cache)
        return bisect(document, (step - 1, step), gone, on_cpu=on_cpu, say=say)


def shown(text: str) -> str:
    """The beginning of a document in one line, without signs that a terminal obeys. Pure."""
    return harmless(" ".join(text.split())[:_CHARACTERS])


def document_of(found: Bisected, step: int) -> dict[str, Any]:
    """What was found as JSON. Pure."""
    return {
        "step": step,
        "losses": {str(number): finite(loss) for number, loss in sorted(found.losses.items())},
        "documents": [
            {
                "place": str(one.place), "source": one.source, "tokens": one.tokens, "loss": finite(one.loss),
                "raises": finite(one.raises), "text": one.text,
            }
            for one in sorted(found.documents, key=lambda one: (-one.place.step, -one.raises))
        ],
    }  # fmt: skip


def lines_of(found: Bisected, step: int) -> list[str]:
    """The losses around the step, a sentence each. Pure."""
    return [
        f"step {number}: loss {loss:.4f}"
        for number, loss in sorted(found.losses.items())
        if abs(number - step) <= AFTER
    ]
