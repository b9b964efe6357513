"""The command ``halcyon replay``: computes steps of a run again from one of its checkpoints, and compares every bit.

A process trains the document of the replay (task ``replay``) in a folder of its own. The root of the run is only read.
"""

import json as json_format
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from halcyon.commands import options
from halcyon.commands.errors import console, report_root_errors
from halcyon.commands.terminal import say
from halcyon.host.errors import BadConfiguration, TrainerExit
from halcyon_api.ends import EndCause, ExitCode
from halcyon_api.replays import REPLAY_KEY, ReplayRecord, replay_document
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.training_run import TrainingRun
from halcyon_api.yaml_text import dump

_OPTIONS = {"spec.from.step": "--from", "spec.from.toStep": "--to"}


def replay(
    document: options.Document,
    *,
    first: Annotated[int | None, typer.Option("--from", min=0)] = None,
    to: options.AtLeast1 | None = None,
    changes: options.Changes,
    device: options.Device = None,
    json: options.Json = False,
    record: Path | None = None,
) -> None:
    """Compute steps of a run again from one of its checkpoints, and compare every bit of the losses and of the state.

    Only reads the run's root. Exits with 1 if something differs. Bits can be equal on the same kind of hardware, with
    the same mesh and versions; what differs is said first.

    Args:
        first: Step of the checkpoint to begin with.
        to: The last step. Default: that of the next checkpoint.
        record (FILE): Write what was found to this file as well, for `halcyon prove --replay`.
    """
    with report_root_errors():
        if record is not None:
            options.require_folder(record, "--record")
        run = options.valid_training(document, changes)
        if first is None:
            raise BadConfiguration("--from: give the step of the checkpoint to begin with")
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
        said = str(error)
        for field, option in _OPTIONS.items():
            said = said.replace(field, option)
        raise BadConfiguration(said) from None
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
