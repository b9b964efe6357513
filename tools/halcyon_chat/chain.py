"""The stages of a chain, in order, and which of them are done. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halcyon_api.checkpoint_documents import canonical_json
from halcyon_chat.local import local_form

FILES = "chat-files"
"""Folder of the conversations, as in examples/chat."""
REPORT = "report.html"
QUESTIONS = 128
"""Questions of SpellingBee that each model is asked."""


class Broken(Exception):
    """The chain cannot be run. The message is one sentence with the fix."""


@dataclass(frozen=True)
class Stage:
    """One process of `halcyon`.

    Attributes:
        name: Its name, also of its files.
        command: The arguments of `halcyon`.
        key: A hash of everything that the stage depends on.
        document: The run document; None: the stage is not a run.
        result: Folder of its results that must be complete or absent. The command writes to `partial(result)`. None: it
            needs none.
    """

    name: str
    command: tuple[str, ...]
    key: str
    document: dict[str, Any] | None = None
    result: Path | None = None

    @property
    def steps(self) -> int | None:
        """Steps of a training; None: the stage does not train."""
        if self.document is None or not _trains(self.document):
            return None
        return self.document["spec"]["trainer"]["steps"]

    @property
    def tokens(self) -> int:
        """Tokens of a training, as a measure of its work; 0: the stage does not train."""
        if self.document is None or self.steps is None:
            return 0
        trainer = self.document["spec"]["trainer"]
        return self.steps * trainer.get("batchSize", 1) * trainer.get("sequenceLength", 1)

    @property
    def root(self) -> Path | None:
        """Checkpoint root of a run."""
        return (
            Path(self.document["spec"]["checkpoint"]["root"].removeprefix("file://"))
            if self.document is not None
            else None
        )


def partial(result: Path) -> Path:
    """Where a stage writes results that are not complete yet."""
    return result.with_name(f"{result.name}.partial")


def in_order(documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run documents in the order of their ``spec.after``: a chain, each after the one before.

    Raises:
        Broken: They do not form a chain.
    """
    after: dict[str | None, dict[str, Any]] = {}
    for document in documents:
        before = document["spec"].get("after", {}).get("run")
        if before in after:
            names = sorted(one["metadata"]["name"] for one in (document, after[before]))
            raise Broken(
                f"{' and '.join(names)} come both after {before or 'no run'}; give each run of the chain another "
                "spec.after"
            )
        after[before] = document
    chain: list[dict[str, Any]] = []
    name: str | None = None
    while (document := after.pop(name, None)) is not None:
        chain.append(document)
        name = document["metadata"]["name"]
    if after:
        known = {one["metadata"]["name"] for one in after.values()}
        for before, one in after.items():
            if before not in known:
                raise Broken(
                    f"run {one['metadata']['name']} comes after {before}, which is not in the chain; correct its "
                    "spec.after"
                )
        raise Broken(f"{' and '.join(sorted(known))} wait for each other; remove spec.after from the one that begins")
    if not any(_trains(document) for document in chain):
        raise Broken("no run of the chain trains; give at least one document without spec.task")
    return chain


def stages(documents: Iterable[dict[str, Any]], folder: Path, versions: Sequence[str]) -> tuple[Stage, ...]:
    """All stages of a chain: its files, its runs, the tasks, and the report.

    Args:
        documents: The run documents, in any order.
        folder: Folder of the chain, an absolute path.
        versions: Versions that decide the generated text, such as that of Python.

    Raises:
        Broken: The documents do not form a chain.
    """
    chain = in_order(documents)
    found: list[Stage] = []

    def add(name: str, *command: str, document: dict[str, Any] | None = None, result: Path | None = None) -> None:
        before = found[-1].key if found else list(versions)
        key = hashlib.sha256(canonical_json([before, name, command, document])).hexdigest()
        found.append(Stage(name, command, key, document, result))

    add("conversations", "data", "conversations", str(folder / FILES))
    for one in chain:
        name = one["metadata"]["name"]
        add(name, "train", str(folder / "documents" / f"{name}.yaml"), "--json", document=local_form(one, folder))
    roots = [stage.root for stage in found if stage.root is not None]
    answering = [
        stage for stage in found if stage.document is not None and stage.steps is not None and _answers(stage.document)
    ]
    for stage in answering:
        result = folder / "results" / stage.name
        questions = ("--task", f"spelling-bee={folder / FILES / 'words.txt'}", "--most", str(QUESTIONS), "--keep")
        add(
            f"{stage.name}-tasks", "eval", str(stage.root), *questions, "--results", str(partial(result)), result=result
        )
    evaluating = [
        stage for stage in found if stage.document is not None and stage.document["spec"].get("task") == "evaluate"
    ]
    ends = [str(stage.root) for stage in (model_of(found), *evaluating)]
    files = ("--html", str(folder / REPORT), "--markdown", str(folder / "report.md"))
    add("report", "report", "--chain", *ends, *files)
    if len(set(roots)) < len(roots):
        raise Broken("two runs of the chain have the same spec.checkpoint.root; give each its own")
    return tuple(found)


def model_of(found: Sequence[Stage]) -> Stage:
    """The stage whose model the page talks with: the last training."""
    return next(stage for stage in reversed(found) if stage.steps is not None)


def left(found: Sequence[Stage], done: Mapping[str, str]) -> tuple[Stage, ...]:
    """The stages that must still run: the first one that is not done, and all after it.

    Args:
        found: All stages.
        done: The key with which each stage was done, by name.

    Raises:
        Broken: A run was done from another document or other text. Its root holds that training, so another one cannot
            begin there.
    """
    for place, stage in enumerate(found):
        if done.get(stage.name) == stage.key:
            continue
        for later in found[place:]:
            if later.document is not None and done.get(later.name, later.key) != later.key:
                raise Broken(
                    f"{later.name} was done with another document, another version of Halcyon or Python, or after "
                    "another run; `make chat ARGS=--fresh` deletes the chain and begins again"
                )
        return tuple(found[place:])
    return ()


def _trains(document: dict[str, Any]) -> bool:
    return document["spec"].get("task", "train") == "train"


def _answers(document: dict[str, Any]) -> bool:
    """Whether a run makes a model that answers: it was trained on conversations or on rewards, not on text."""
    return "nextToken" not in document["spec"].get("objective", {"nextToken": {}})
