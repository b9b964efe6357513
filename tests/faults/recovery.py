"""A root whose HEAD is lost, and every command that reads a root, each started in a fresh process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from halcyon_api.checkpoint_documents import FORMAT_VERSION, canonical_json
from halcyon_devcluster.waiting import until
from tests.ports import free_port
from tests.suite.limits import limit
from tests.trainer.support.process_groups import run_document

REPOSITORY = Path(__file__).parents[2]
SAVED = (6, 3)
"""Steps of the committed checkpoints, the newest first."""
STEPS = 8
QUESTION = {
    "id": "1",
    "question": {"stem": "What burns?", "choices": [{"text": "wood", "label": "A"}, {"text": "air", "label": "B"}]},
    "answerKey": "A",
}


def _flipped(head: bytes) -> bytes:
    """HEAD with a flipped bit in its last word, the writer's nonce, so that it still is a JSON document."""
    return head[:-3] + bytes([head[-3] ^ 1]) + head[-2:]


def _stored(document: dict[str, Any]) -> bytes:
    """A document with the right hash of its content."""
    return canonical_json(document | {"sha256": hashlib.sha256(canonical_json(document)).hexdigest()})


def _newer(head: bytes) -> bytes:
    document = json.loads(head)
    del document["sha256"]
    return _stored(document | {"formatVersion": FORMAT_VERSION + 1})


@dataclass(frozen=True)
class Harm:
    """A way to lose HEAD."""

    of: Callable[[bytes], bytes | None]
    """The new content of HEAD from the good one; None: HEAD is deleted."""
    reason: str
    """The clause about it."""


HARMS = {
    "garbage": Harm(lambda _: b"x", "HEAD is not a JSON document"),
    "flipped bit": Harm(_flipped, "HEAD does not have the hash that it carries"),
    "empty": Harm(lambda _: b"", "HEAD is empty"),
    "empty object": Harm(lambda _: b"{}", "HEAD does not carry the hash of its content"),
    "missing": Harm(lambda _: None, "HEAD is missing"),
    "newer version": Harm(_newer, f"HEAD has the format version {FORMAT_VERSION + 1} of a newer Halcyon"),
    "other document": Harm(
        lambda _: _stored({"formatVersion": FORMAT_VERSION}), "HEAD does not have the fields of a HEAD"
    ),
    "list": Harm(lambda _: b'["sha256"]', "HEAD does not carry the hash of its content"),
    "no text": Harm(lambda _: b"\xff\xfe", "HEAD is not a JSON document"),
    "deep": Harm(lambda _: b"[" * 100_000, "HEAD is not a JSON document"),
    "cut": Harm(lambda head: head[: len(head) // 3], "HEAD is not a JSON document"),
}


NAMED = ("garbage", "flipped bit", "empty", "empty object", "missing", "newer version")
"""The harms that all commands of `THOROUGH` are started after."""


@dataclass(frozen=True)
class Ended:
    """An ended command."""

    code: int
    stdout: str
    stderr: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON lines of its output."""
        return [json.loads(line) for line in self.stdout.splitlines() if line.startswith("{")]


def environment(folder: Path) -> dict[str, str]:
    """The environment of a user without any setting, on the CPU. JAX keeps its compiled programs in `folder`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HALCYON_", "JAX_", "XLA_"))}
    # Unoptimised code compiles faster, and recovery does not depend on it.
    return kept | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
    }


def run(halcyon: Path, arguments: Sequence[str], folder: Path) -> Ended:
    """Run a command in a fresh process, and check that it ended with an exit code of its own and without a
    traceback.
    """
    done = subprocess.run(
        [halcyon, *arguments],
        env=environment(folder),
        cwd=folder,
        input="",
        capture_output=True,
        text=True,
        check=False,
        timeout=limit(240),
    )
    ended = Ended(done.returncode, done.stdout, done.stderr)
    assert ended.code >= 0, f"{arguments} ended by signal {-ended.code}: {ended.stderr[-2000:]}"
    assert "Traceback" not in ended.stdout + ended.stderr, f"{arguments}: {ended.stderr[-2000:]}"
    return ended


@dataclass(frozen=True)
class Place:
    """A folder with a root, the document of its run, and the files that the commands need."""

    folder: Path

    @property
    def root(self) -> Path:
        """The checkpoint root."""
        return self.folder / "root"

    @property
    def document(self) -> Path:
        """The run document."""
        return self.folder / "run.yaml"

    def lose_head(self, harm: Harm, head: bytes) -> None:
        """Replace HEAD by what is left of it, or delete it."""
        left = harm.of(head)
        (self.root / "HEAD").unlink() if left is None else (self.root / "HEAD").write_bytes(left)

    def write(self, name: str, **changes: Any) -> Path:
        """Write a document of another run with changed sections of the spec, whose root lies beside this one."""
        document = yaml.safe_load(self.document.read_text())
        spec = document["spec"] | {"checkpoint": {"root": f"file://{self.folder / name}"}} | changes
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document | {"metadata": {"name": name, "namespace": "tests"}, "spec": spec}))
        return path


def trained(halcyon: Path, folder: Path) -> tuple[Place, bytes, dict[int, float]]:
    """Train a run, and take its last checkpoint away, as after a kill before the last save.

    Returns:
        The place; its good HEAD, which lists the checkpoint too; and the loss of each step.
    """
    place = Place(folder)
    document = run_document(place.root, slices=1, steps=STEPS)
    document["spec"]["checkpoint"] |= {"save": {"everySteps": 3}, "keep": 4}
    place.document.write_text(yaml.safe_dump(document))
    (folder / "arc.jsonl").write_text(json.dumps(QUESTION) + "\n")
    ended = run(halcyon, ["train", str(place.document), "--json"], folder)
    assert ended.code == 0, ended.stderr[-2000:]
    (last,) = place.root.glob(f"steps/{STEPS:012d}.*")
    shutil.rmtree(last)
    return place, (place.root / "HEAD").read_bytes(), losses(ended)


def losses(ended: Ended) -> dict[int, float]:
    """The loss of each step that a training logged."""
    return {event["step"]: event["loss"] for event in ended.events if event["event"] == "step"}


@dataclass(frozen=True)
class Reading:
    """A command that reads the root and does not change HEAD."""

    arguments: Callable[[Place], Sequence[str]]
    code: int = 0
    says: str = ""
    """A text in its output."""
    says_reason: bool = False
    """Whether it says what is wrong with HEAD."""


def _on_root(*words: str) -> Callable[[Place], Sequence[str]]:
    return lambda place: [str(place.root) if word == "ROOT" else word for word in words]


_NEEDS_HEAD = "start the run again, which rebuilds HEAD from the checkpoints"
READINGS: Mapping[str, Reading] = {
    "checkpoints list": Reading(_on_root("checkpoints", "list", "ROOT"), says="newest", says_reason=True),
    "checkpoints list --json": Reading(
        _on_root("checkpoints", "list", "ROOT", "--json"), says='"step": 6', says_reason=True
    ),
    "checkpoints verify": Reading(
        _on_root("checkpoints", "verify", "ROOT", "--all"), 1, "step 6: every byte", says_reason=True
    ),
    "checkpoints show": Reading(_on_root("checkpoints", "show", "ROOT"), says="step        6"),
    "checkpoints diff": Reading(_on_root("checkpoints", "diff", "ROOT", "3", "6"), 1, "embedding.weight"),
    "checkpoints pin": Reading(
        _on_root("checkpoints", "pin", "ROOT", "--step", "3"), 82, _NEEDS_HEAD, says_reason=True
    ),
    "checkpoints unpin": Reading(
        _on_root("checkpoints", "unpin", "ROOT", "--step", "3"), 82, _NEEDS_HEAD, says_reason=True
    ),
    "checkpoints gc": Reading(_on_root("checkpoints", "gc", "ROOT"), 82, _NEEDS_HEAD, says_reason=True),
    "checkpoints copy": Reading(_on_root("checkpoints", "copy", "ROOT", "copy"), says="step 6 is in"),
    "doctor": Reading(_on_root("doctor", "ROOT"), says="read what was written"),
    "sample": Reading(_on_root("sample", "ROOT", "--prompt", "3 times", "--max-tokens", "2"), says="3 times"),
    "chat": Reading(_on_root("chat", "ROOT"), 80),
    "eval": Reading(_on_root("eval", "ROOT", "--task", "arc-easy=arc.jsonl", "--plain"), says="arc-easy"),
    "samples": Reading(_on_root("samples", "ROOT"), 80, "it has no samples"),
    "export hf": Reading(_on_root("export", "hf", "ROOT", "exported"), says="step 6 is in"),
    "report": Reading(_on_root("report", "ROOT"), says="tiny"),
    "report --chain": Reading(_on_root("report", "ROOT", "--chain"), says="tiny"),
    "compare": Reading(_on_root("compare", "ROOT", "ROOT"), says="complete 8/8"),
    "show profile": Reading(_on_root("show", "profile", "ROOT"), 80, "no such profile"),
    "train from its checkpoint": Reading(
        lambda place: [
            "train",
            str(place.write("next", **{"from": {"run": "tiny", "root": f"file://{place.root}"}})),
            "--json",
        ],
        says='"event":"done"',
    ),
    "train with the task evaluate": Reading(
        lambda place: [
            "train",
            str(place.write("tested", task="evaluate", **{"from": {"run": "tiny", "root": f"file://{place.root}"}})),
            "--json",
        ],
        says='"event":"done"',
    ),
}
"""Every command that reads a root, except `train` and `serve`."""
THOROUGH = ("checkpoints verify", "sample", "export hf", "report")
"""The commands that are started after each of the harms `NAMED`; `checkpoints list` after every harm, the others after
two.
"""


def check_reading(halcyon: Path, place: Place, name: str, harm: str) -> None:
    """Start a reading command on a root whose HEAD is lost, and check its answer."""
    reading = READINGS[name]
    present = {path.name: path.read_bytes() for path in place.root.glob("HEAD")}
    ended = run(halcyon, reading.arguments(place), place.folder)
    output = " ".join((ended.stdout + ended.stderr).split())
    nothing_to_delete = (name, harm) == ("checkpoints gc", "missing")  # without HEAD nothing is garbage
    assert ended.code == (0 if nothing_to_delete else reading.code), output[-2000:]
    assert nothing_to_delete or " ".join(reading.says.split()) in output, output[-2000:]
    assert nothing_to_delete or not reading.says_reason or HARMS[harm].reason in output, output[-2000:]
    assert {path.name: path.read_bytes() for path in place.root.glob("HEAD")} == present, (
        "a command that reads must not change HEAD"
    )


def check_serving(halcyon: Path, place: Place) -> None:
    """Serve the newest checkpoint of a root whose HEAD is lost, until a signal ends the server."""
    port = free_port()
    with (place.folder / "served").open("w+") as output:
        server = subprocess.Popen(
            [halcyon, "serve", str(place.root), "--port", str(port), "--length", "32"],
            env=environment(place.folder),
            stdout=output,
            stderr=subprocess.STDOUT,
        )

        def said() -> str:
            return (place.folder / "served").read_text()[-2000:]

        def answers() -> bool:
            assert server.poll() is None, f"exit code {server.returncode}: {said()}"
            try:
                return httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200
            except httpx.TransportError:
                return False

        try:
            until(answers, timeout_seconds=60, failure=said)
            server.send_signal(signal.SIGTERM)
            assert server.wait(limit(60)) == 0, said()
        finally:
            server.kill()
            server.wait()
        assert "Traceback" not in said()


def check_training(halcyon: Path, place: Place, harm: str, undisturbed: Mapping[int, float]) -> None:
    """Train a run whose HEAD is lost: it goes on from its newest checkpoint, bitwise the same, and says why HEAD was
    rebuilt.
    """
    ended = run(halcyon, ["train", str(place.document), "--json"], place.folder)
    assert ended.code == 0, ended.stderr[-2000:]
    (rebuilt,) = [event for event in ended.events if event["event"] == "headRebuilt"]
    assert rebuilt["step"] == SAVED[0]
    assert HARMS[harm].reason in rebuilt["reason"]
    assert losses(ended) == {step: loss for step, loss in undisturbed.items() if step > SAVED[0]}
    listed = run(halcyon, ["checkpoints", "list", str(place.root), "--json"], place.folder)
    document = json.loads(listed.stdout)
    assert document["headDamage"] is None
    assert HARMS[harm].reason in document["head"]["rebuilt"]["reason"]
    assert [entry["step"] for entry in document["head"]["committed"]] == [STEPS, *SAVED], document
    shown = run(halcyon, ["checkpoints", "list", str(place.root)], place.folder)
    assert HARMS[harm].reason in " ".join(shown.stdout.split())
