"""The folder of a chain: one `make chat` at a time, its documents, and which stages are done."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halcyon_api.yaml_text import InvalidYaml, dump, read_documents
from halcyon_chat.chain import Broken, Stage, partial

_MARK = ".halcyon-chat"
"""File in each folder whose content this program may delete. A process that runs the chain holds its lock."""
_PATH = re.compile(r"(/[A-Za-z0-9._=-]+)+")
"""Paths that a run document can name (`halcyon_api.spec.checkpoint.ROOT_PATTERN`)."""


@dataclass(frozen=True)
class Record:
    """A stage that has succeeded.

    Attributes:
        key: The key of the stage.
        seconds: Duration of its last process.
        came: Its result, in a few words.
        text: What its model writes, with the prompt; empty if it wrote nothing.
    """

    key: str
    seconds: float
    came: str
    text: str = ""


class Folder:
    """The folder of a chain.

    Args:
        path: An absolute path.

    Raises:
        Broken: The path cannot be used.
    """

    def __init__(self, path: Path) -> None:
        if not _PATH.fullmatch(str(path)):
            raise Broken(
                f"{path} has a character that addresses of checkpoints do not allow; give --folder with letters, "
                "digits, . _ = -"
            )
        self.path = path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Create the folder, and lock it for this process. The kernel releases the lock when the process ends.

        Raises:
            Broken: Another process has the lock, or the folder has other files.
        """
        self._check()
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / _MARK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise Broken(
                f"another `make chat` works in {self.path}; wait for its end, or give another --folder"
            ) from None
        try:
            yield
        finally:
            os.close(descriptor)

    def clear(self) -> None:
        """Delete everything in the folder but its mark."""
        for path in self.path.iterdir():
            if path.name != _MARK:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def records(self) -> dict[str, Record]:
        """The record of each stage that is done, by name. A record that cannot be read counts as none."""
        found: dict[str, Record] = {}
        for path in sorted((self.path / "done").glob("*.json")):
            try:
                document = json.loads(path.read_bytes())
                found[path.stem] = Record(str(document["key"]), float(document["seconds"]), str(document["came"]))
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def prepare(self, stage: Stage) -> None:
        """Write the document of a stage, and delete results that are not complete."""
        if stage.document is not None:
            _write(self.path / "documents" / f"{stage.name}.yaml", dump(stage.document))
        if stage.result is not None:
            shutil.rmtree(partial(stage.result), ignore_errors=True)
            stage.result.parent.mkdir(parents=True, exist_ok=True)

    def results(self, stage: Stage) -> str:
        """The accuracies in the results of a stage that has just ended, in a few words; empty if it has none."""
        if stage.result is None:
            return ""
        document = json.loads((partial(stage.result) / "results.json").read_bytes())
        tasks = [one for one in document["tasks"] if "standardError" in one]
        return ", ".join(f"{one['task']} {one['accuracy']:.3f} ± {one['standardError']:.3f}" for one in tasks)

    def keep(self, stage: Stage, seconds: float, came: str) -> None:
        """Give the complete results of a stage their name, then record that the stage is done."""
        if stage.result is not None:
            shutil.rmtree(stage.result, ignore_errors=True)
            partial(stage.result).rename(stage.result)
        document = {"key": stage.key, "seconds": round(seconds, 1), "came": came}
        _write(self.path / "done" / f"{stage.name}.json", json.dumps(document))

    def log(self, stage: Stage) -> Path:
        """The file with everything that the processes of a stage have printed."""
        path = self.path / "logs" / f"{stage.name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _check(self) -> None:
        if self.path.exists() and not (self.path / _MARK).exists() and any(self.path.iterdir()):
            raise Broken(f"{self.path} has files of something else; give another --folder")


def read_chain(folder: Path) -> list[dict[str, Any]]:
    """The run documents in the files of a folder.

    Raises:
        Broken: A file cannot be read, or there is no run.
    """
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            documents: Sequence[Any] = read_documents(path.read_text(encoding="utf-8"))
        except (InvalidYaml, OSError, UnicodeDecodeError) as error:
            raise Broken(f"{path} cannot be read: {error}") from None
        found.extend(one for one in documents if isinstance(one, dict) and one.get("kind") == "TrainingRun")
    if not found:
        raise Broken(f"{folder} has no file with a TrainingRun; give a folder such as examples/chat")
    return found


def _write(path: Path, text: str) -> None:
    """Replace a file atomically: a killed process leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f".{path.name}")
    with partial_path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial_path.replace(path)
