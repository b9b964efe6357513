"""The command ``halcyon replay``: computes steps of a run again from one of its checkpoints, and compares every bit.

The checkpoint is copied into a root of its own, and a process trains the same document there up to the step to compare.
The root of the run is only read.
"""

from __future__ import annotations

import json as json_format
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from halcyon.commands.errors import console, report_root_errors
from halcyon.commands.options import Defaults, Document, Overrides, require_folder, valid_training
from halcyon.errors import BadConfiguration, TrainerExit
from halcyon_api.checkpoint_documents import Manifest
from halcyon_api.counting import counted
from halcyon_api.ends import ExitCode
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.training_run import TrainingRun
from halcyon_api.yaml_text import dump

if TYPE_CHECKING:
    from halcyon.checkpoint.arrays import LeafDifference

_LEFT_OUT = ("after", "budget", "export", "from", "plan", "suspend", "ttlSecondsAfterFinished")
"""Sections that change no number of a step, and would let a replay do something else too."""


@dataclass(frozen=True)
class Different:
    """The first step whose numbers differ."""

    step: int
    number: str
    here: float
    there: float

    def __str__(self) -> str:
        return f"step {self.step}: {self.number} is {self.here!r} here, and was {self.there!r}"


@dataclass(frozen=True)
class Replayed:
    """What a replay has found.

    Attributes:
        first: Steps done at its checkpoint.
        last: The last step.
        compared: Number of steps whose numbers were compared.
        different: The first step that differs. None: none does.
        arrays: The arrays of the checkpoint of the last step that differ. None: the run has none of that step.
        notes: What differs in hardware and versions, in a clause each.
        run: NAMESPACE/NAME of the run.
        chain: SHA-256 of the newest link of its chain of evidence when the replay began. None: it has no chain.
        made: The manifest of the replay's own last checkpoint: hardware, versions and time.
    """

    first: int
    last: int
    compared: int
    different: Different | None
    arrays: tuple[LeafDifference, ...] | None
    notes: tuple[str, ...]
    run: str
    chain: str | None
    made: Manifest

    @property
    def is_identical(self) -> bool:
        """Whether all that was compared has the same bits."""
        return self.different is None and not self.arrays

    def document(self) -> dict[str, Any]:
        """The findings as JSON, which `halcyon prove --replay` reads."""
        return {
            "run": self.run,
            "chain": self.chain,
            "identical": self.is_identical,
            "from": self.first,
            "to": self.last,
            "comparedSteps": self.compared,
            "firstDifferentStep": None if self.different is None else self.different.step,
            "stateCompared": self.arrays is not None,
            "differentArrays": [array.path for array in self.arrays or ()],
            "notes": list(self.notes),
            "hardware": "" if self.made.evidence is None else self.made.evidence.hardware,
            "versions": dict(self.made.versions),
            "time": self.made.time,
        }

    def sentences(self) -> Iterator[str]:
        """The findings for people."""
        steps = f"steps {self.first + 1} to {self.last}"
        state = "" if self.arrays is None else f", and the state of step {self.last} is that of its checkpoint"
        if self.is_identical:
            numbers = f"{counted(self.compared, 'step')} compared" if self.compared else "the history has none of them"
            yield f"identical: {steps} have the bits of the run ({numbers}){state}"
            return
        yield f"different: {steps} do not have the bits of the run"
        if self.different is not None:
            yield f"  {self.different}"
        for array in self.arrays or ():
            values = f"{array.elements:,} of {array.of:,} values, by at most {array.largest:.6g}"
            yield f"  {array.path}: {array.what}{f', {values}' if array.of else ''}"


def replay(
    document: Document,
    first: Annotated[int, typer.Option("--from", min=0, help="Step of the checkpoint to begin with.")],
    to: Annotated[int | None, typer.Option(min=1, help="The last step. Default: that of the next checkpoint.")] = None,
    defaults: Defaults = None,
    overrides: Overrides = None,
    device: Annotated[
        Literal["cpu"] | None,
        typer.Option(help="cpu: on the processor. Default: the accelerator that the document names."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was found as one JSON object.")] = False,
    record: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what was found to this file as well, for `halcyon prove --replay`."),
    ] = None,
) -> None:
    """Compute steps of a run again from one of its checkpoints, and compare every bit of the losses and of the state.

    Only reads the run's root. Exits with 1 if something differs. Bits can be equal on the same kind of hardware, with
    the same mesh and versions; what differs is said first.
    """
    with report_root_errors():
        if record is not None:
            require_folder(record, "--record")
        run = valid_training(document, defaults, overrides)
        found = replayed(run, first, to, words=() if device is None else ("--device", device), say=_say)
        text = f"{json_format.dumps(found.document())}\n"
        if record is not None:
            record.write_text(text, encoding="utf-8")
    if json:
        sys.stdout.write(text)
    else:
        for sentence in found.sentences():
            console().print(sentence, highlight=False, markup=False)
    if not found.is_identical:
        raise typer.Exit(ExitCode.FAILURE)


def replayed(run: TrainingRun, first: int, to: int | None, *, words: tuple[str, ...], say: Any) -> Replayed:
    """Replay steps of a run.

    Args:
        run: The run, with its checkpoint root.
        first: Step of the checkpoint to begin with.
        to: The last step. None: that of the next checkpoint.
        words: Further arguments of ``halcyon train``.
        say: Is told what is known before the end, in sentences.

    Raises:
        BadConfiguration: There is no such checkpoint, or nothing to compare with.
        TrainerExit: The training of the replay failed; the message has its last words.
    """
    from halcyon.checkpoint.arrays import Checkpoint, compare
    from halcyon.checkpoint.opening import committed_steps, entry_of
    from halcyon.checkpoint.verify import read_manifest
    from halcyon.commands.copy_checkpoint import copy_checkpoint
    from halcyon.storage.store import Store
    from halcyon.telemetry.history.reading import read_history

    store = Store(run.spec.checkpoint)
    entry = entry_of(store, first)
    committed = committed_steps(store)
    later = sorted((one for one in committed if one.step > first), key=lambda one: one.step)
    if to is None and not later:
        raise BadConfiguration(f"--from {first}: {store.root} has no later checkpoint; name the last step with --to")
    last = later[0].step if to is None else to
    if not first < last <= run.spec.trainer.steps:
        raise BadConfiguration(f"--to {last}: give a step from {first + 1} to {run.spec.trainer.steps}")
    target = next((one for one in later if one.step == last), None)
    numbers = {row["step"]: row for row in read_history(store).steps if first < row["step"] <= last}
    if target is None and not numbers:
        raise BadConfiguration(f"--to {last}: {store.root} has no checkpoint of this step, and no history of the steps")
    manifest = read_manifest(store, target or entry)
    notes = differences(manifest)
    for note in notes:
        say(f"{note}, so bits may differ")
    with tempfile.TemporaryDirectory(prefix="halcyon-replay-") as folder:
        place = CheckpointSpec(root=f"file://{folder}/root")
        own = Store(place)
        copy_checkpoint(store, entry, own)
        path = Path(folder) / "run.yaml"
        path.write_text(dump(document_of(run, place, last)), encoding="utf-8")
        different, compared = None, 0
        for event in _trained(path, last, words):
            if event["event"] != "step" or event["step"] not in numbers:
                continue
            compared += 1
            found = first_difference(event, numbers[event["step"]])
            if found is not None and different is None:
                different = found
                say(str(found))
        arrays, saved = None, entry_of(own, last)
        if target is not None:
            arrays = tuple(compare(Checkpoint(own, saved), Checkpoint(store, target)))
        made = read_manifest(own, saved)
    name = f"{manifest.owner.namespace}/{manifest.owner.name}"
    return Replayed(first, last, compared, different, arrays, notes, name, committed[0].link, made)


def first_difference(here: Mapping[str, Any], there: Mapping[str, Any]) -> Different | None:
    """The first of a step's numbers that differs between an event and the history."""
    for name in ("loss", "gradientNorm"):
        if name in here and name in there and repr(here[name]) != repr(there[name]):
            return Different(
                here["step"], "the loss" if name == "loss" else "the gradient norm", here[name], there[name]
            )
    return None


def document_of(run: TrainingRun, place: CheckpointSpec, last: int) -> dict[str, Any]:
    """The document of a replay: the run with another root, which saves after the last step. Pure."""
    document = run.document()
    spec = {name: value for name, value in document["spec"].items() if name not in _LEFT_OUT}
    # The first multiple of the last step is the last step.
    spec["checkpoint"] = place.document() | {"save": {"everySteps": last}, "keep": 3}
    spec["trainer"] = {**spec["trainer"], "logEverySteps": 1}
    spec["telemetry"] = {name: value for name, value in spec.get("telemetry", {}).items() if name != "sample"}
    return {**document, "spec": spec}


def differences(manifest: Manifest) -> tuple[str, ...]:
    """What differs between the makers of a checkpoint and this machine, in a clause each."""
    from halcyon.checkpoint.commit import versions

    made, here = manifest.versions, versions()
    clauses = [
        f"the run had {name} {made[name]}, and here is {here[name]}"
        for name in sorted(made.keys() & here.keys())
        if made[name] != here[name]
    ]
    if manifest.evidence is not None and manifest.evidence.hardware:
        program = "from halcyon.parallel.devices import hardware_name; print(hardware_name())"
        asked = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        devices = asked.stdout.strip()
        if devices and devices != manifest.evidence.hardware:
            clauses.append(f"the run computed on {manifest.evidence.hardware}, and here is {devices}")
    return tuple(clauses)


def _trained(path: Path, last: int, words: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Train the document of a replay until its checkpoint of the last step, and give its events."""
    command = [sys.executable, "-m", "halcyon.commands.main", "train", str(path), "--json", *words]
    said = path.with_name("errors")
    with said.open("w") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    saved, message = False, ""
    try:
        for line in child.stdout or ():
            event = json_format.loads(line) if line.startswith("{") else {}
            if not event:
                continue
            if event["event"] == "step" and event["step"] > last:
                continue
            if event["event"] == "error":
                message = event["message"]
            if event["event"] == "checkpoint" and event["step"] == last and not saved:
                saved = True
                child.send_signal(signal.SIGINT)
            yield event
    finally:
        if child.poll() is None:
            child.terminate()
        child.wait()
    if not saved:
        words_left = message or said.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        raise TrainerExit(f"the replay ended before step {last}: {words_left or f'exit code {child.returncode}'}")


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()
