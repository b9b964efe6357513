"""Every command that writes, killed at a random moment or left by its readers: the same command, called again, ends
right.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from halcyon.checkpoint import list_checkpoints
from halcyon.checkpoint.verify import find_damage
from halcyon.host.output import READER_LEFT
from halcyon.host.storage.store import Store
from halcyon_api.ends import ExitCode
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_cli import kubectl
from halcyon_cli.main import app
from tests.suite.limits import limit
from tests.trainer.support.forked import Forked
from tests.trainer.support.process_groups import run_document
from tests.trainer.weights.folders import GOLDENS

DEADLINE_SECONDS = 60
"""For each call of a command here, on the reference machine."""


@dataclass(frozen=True)
class Writer:
    """A command that writes.

    Attributes:
        arguments: Its arguments, after its name; W is the folder of the trial.
        root: The root that it makes or changes; every checkpoint in it must verify.
        file: The file that it writes at once: the whole file or none.
        done_already: What the second call says if the first one has written all: it writes into an empty place only.
    """

    arguments: str
    root: str = ""
    file: str = ""
    done_already: str = "never"


WRITERS = {
    "train": Writer("W/new.yaml --json", root="new"),
    "sweep": Writer("W/new.yaml W/sweep.yaml --at-once 2", root="new/tiny-1"),
    "replay": Writer("W/run.yaml --from 10 --to 12 --record W/record.json", root="root"),
    "prove": Writer("W/root --output W/statement.json", root="root"),
    "eval": Writer("W/root --plain --task arc-easy=W/arc.jsonl --results W/results --keep", root="root"),
    "doctor": Writer("W/root", root="root"),
    "checkpoints pin": Writer("W/root --step 10", root="root"),
    "checkpoints unpin": Writer("W/root --step 10", root="root"),
    "checkpoints gc": Writer("W/root", root="root"),
    "checkpoints copy": Writer("W/root W/copied", root="copied", done_already="is not empty|has a checkpoint|already"),
    "import hf": Writer(
        f"{GOLDENS / 'qwen3'} --root W/imported", root="imported", done_already="is not empty|has a checkpoint|already"
    ),
    "export hf": Writer("W/root W/exported", done_already="is not empty|already"),
    "plan": Writer("W/run.yaml --report W/plan.json", file="plan.json"),
    "data build": Writer("W/new.yaml"),
    "data show": Writer("W/new.yaml"),
    "data stats": Writer("W/new.yaml"),
    "data conversations": Writer("W/talk"),
    "tokenizer train": Writer("W/text.txt --output W/tokenizer.json --vocab-size 300", file="tokenizer.json"),
    "report": Writer("W/root --svg W/report.svg --html W/report.html --csv W/report.csv", root="root"),
    "compare": Writer("W/root W/root --svg W/compared.svg", root="root"),
}
"""The commands that write files, with calls that do so."""
READERS = {
    "validate", "resolve", "models", "dial", "sample", "samples", "chat", "transcribe", "serve", "render",
    "checkpoints list", "checkpoints show", "checkpoints verify", "checkpoints diff",
    "show dial", "show run", "show optimizer", "show profile", "show schedule", "profile-here",
    "import-config",
    "slurm", "launch",  # jobs and hosts write as train does
}  # fmt: skip
"""The commands that write nothing themselves but what they print, and caches of programs."""
IN_CLUSTER = {"status", "logs", "diff", "checkpoint", "profile", "suspend", "resume", "restart", "refresh"}
"""The commands that change at most objects of the cluster, each by one request."""
REJECTED = (ExitCode.BAD_CONFIGURATION, ExitCode.ROOT_TAKEN)
WRITES = re.compile(r"\b(write|keep|draw)\b", re.IGNORECASE)


def commands(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """All commands of a group, by name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def test_every_command_is_known_to_write_or_to_read() -> None:
    found = dict(commands(typer.main.get_command(app)))
    known = {*WRITERS, *READERS, *IN_CLUSTER}
    assert set(found) == known, "give a new command a call in WRITERS, or name it in READERS or IN_CLUSTER"
    assert {name for name, _ in commands(typer.main.get_command(kubectl.app))} <= known
    for name in READERS | IN_CLUSTER:
        writing = [
            option.name
            for option in found[name].params
            if "Path" in str(option.type_descriptor.annotation) and WRITES.search(getattr(option, "help", None) or "")
        ]
        assert not writing, f"{name} writes a file with {writing}; give it a call in WRITERS"


class Trial:
    """A folder with a trained run, in which a command is called."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(base, folder)
        for path in folder.glob("*.yaml"):
            path.write_text(path.read_text().replace(str(base), str(folder)))

    def start(self, name: str) -> Forked:
        """Start the command."""
        words = [word.replace("W/", f"{self.folder}/") for word in WRITERS[name].arguments.split()]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HALCYON_", "XLA_"))}
        own = {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(self.folder / "cache"), "COLUMNS": "400"}
        return Forked("halcyon_cli.main", [*name.split(), *words], environment | own)

    def call(self, name: str) -> tuple[int, str]:
        """Call the command, and read what it prints. Returns its exit code and its standard error."""
        process = self.start(name)
        try:
            return _ended(name, process, [process.stdout, process.stderr])
        finally:
            process.close()

    def disturb(self, name: str, chance: random.Random, seconds: float) -> str:
        """Call the command, and kill it at a random moment, or close the reader of its output. Returns what was done.

        Args:
            name: The command.
            chance: Draws the disturbance.
            seconds: How long a call takes.
        """
        process = self.start(name)
        try:
            if chance.random() < 0.5:
                time.sleep(chance.random() * seconds)  # the random moment of the kill
                process.kill()
                process.wait(limit(DEADLINE_SECONDS))
                return "kills"
            for _ in range(chance.randrange(3)):
                process.stdout.readline()
            process.stdout.close()
            if loses_both := chance.random() < 0.5:
                process.stderr.close()
            code, _ = _ended(name, process, [] if loses_both else [process.stderr])
            assert code in (0, READER_LEFT), f"{name}: {code}"
            return "closed pipes"
        finally:
            with contextlib.suppress(OSError):
                process.close()

    def check(self, name: str) -> None:
        """The command is called again, ends within its deadline, and its result is whole."""
        writer = WRITERS[name]
        code, text = self.call(name)
        if code != 0:
            assert code in REJECTED, f"{name}: {code}\n{text}"
            assert re.search(writer.done_already, text), f"{name}: {code}\n{text}"
        if writer.root:
            root = CheckpointSpec(root=f"file://{self.folder / writer.root}")
            committed = list_checkpoints(root).committed
            assert committed
            for entry in committed:
                assert find_damage(Store(root), entry) == ()
        if writer.file:
            json.loads((self.folder / writer.file).read_text())


def _ended(name: str, process: Forked, streams: list[Any]) -> tuple[int, str]:
    """Wait for the end of a command, within its deadline. Returns its exit code, and the last of these streams."""
    texts = [""] * len(streams)

    def read(number: int) -> None:
        texts[number] = streams[number].read()

    readers = [threading.Thread(target=read, args=(number,), daemon=True) for number in range(len(streams))]
    for reader in readers:
        reader.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(limit(DEADLINE_SECONDS))
    code = process.poll()
    if code is None:
        process.kill()
    for reader in readers:
        reader.join(limit(5))
    text = texts[-1] if texts else ""
    assert code is not None, f"{name} does not end:\n{text[-2000:]}"
    assert "Traceback" not in text, text[-3000:]
    return code, text


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run of 12 steps, and the documents of new ones."""
    folder = tmp_path_factory.mktemp("commands") / "base"
    folder.mkdir()
    for name, root in (("run", folder / "root"), ("new", folder / "new")):
        document = run_document(folder.parent / "root", slices=1, steps=12)  # its text stays where it is
        document["spec"]["checkpoint"]["root"] = f"file://{root}"
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document))
    rates = {"spec.optimizer.learningRate": [0.001, 0.002]}
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"name": "two", "grid": rates}))
    (folder / "text.txt").write_text("one and two and three\n" * 200)
    choices = {"text": ["one", "two"], "label": ["A", "B"]}
    row = {"question": "1 + 1?", "choices": choices, "answerKey": "B"}
    (folder / "arc.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(folder / "cache")}
    trained = Forked("halcyon_cli.main", ["train", str(folder / "run.yaml"), "--json"], environment)
    try:
        code, text = _ended("train", trained, [trained.stdout, trained.stderr])
    finally:
        trained.close()
    assert code == 0, text
    return folder


def calm_seconds(trial: Trial, name: str) -> float:
    """How long an undisturbed call of a command takes."""
    began = time.monotonic()
    code, text = trial.call(name)
    assert code == 0, f"an undisturbed call of {name}: {code}\n{text}"
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("names", "trials"),
    [
        (["checkpoints copy", "tokenizer train"], 2),
        pytest.param(sorted(WRITERS), 63, marks=pytest.mark.variant),
        pytest.param(sorted(WRITERS), 300, marks=pytest.mark.long),
    ],
    ids=["sample", "all", "many"],
)
def test_a_command_that_writes_ends_right_after_a_disturbed_call(
    base: Path, tmp_path: Path, names: list[str], trials: int, record_property: Any
) -> None:
    """Each trial calls a command twice: disturbed, and then to its end."""
    chance, failures, done = random.Random(trials), [], dict[str, int]()
    seconds: dict[str, float] = {}
    for number in range(trials):
        name = names[number % len(names)]
        trial = Trial(base, tmp_path / f"trial-{number}")
        try:
            if name not in seconds:
                seconds[name] = calm_seconds(Trial(base, tmp_path / f"calm-{number}"), name)
            what = trial.disturb(name, chance, seconds[name])
            trial.check(name)
            done[what] = done.get(what, 0) + 1
            shutil.rmtree(trial.folder, ignore_errors=True)
        except AssertionError as failure:
            failures.append(f"trial {number}, {name}: {failure}")
        print(f"{number + 1} {name}: {done}, {len(failures)} failures", flush=True)
    record_property("trials", done)
    assert not failures, "\n\n".join(failures)
