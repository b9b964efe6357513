"""A reader who follows a page: the commands and files of its code blocks, in their order, in one folder.

The lines of each ``sh`` block are commands; each runs in a process of its own and must end well. A comment in the line
before a block says what else a reader does with it, and is invisible on the page:

- ``<!-- walk: file NAME -->``: save it under this name;
- ``<!-- walk: skip, REASON -->``: leave it out.

Other blocks are only read. What a walk changes, such as sizes and addresses, it states as `Walk.changes`: texts that are
replaced, each at least once, and values that every ``halcyon train`` gets as ``--set``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from halcyon.checkpoint.opening import entry_of
from halcyon.host.storage.store import Store
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.examples.documents import REPOSITORY
from tests.suite.limits import limit
from tests.trainer.support.shared_programs import QUICK_FLAGS

_BLOCK = re.compile(r"^(?:<!-- walk: ([^\n]*) -->\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_TRAIN = re.compile(r"^halcyon train ")


class Block(NamedTuple):
    """A code block: its mark, its language and its text."""

    mark: str
    language: str
    text: str


class Done(NamedTuple):
    """A command that has ended, as the page shows it, and what it printed."""

    command: str
    output: str


def blocks(page: str, until: str | None = None) -> Iterator[Block]:
    """The code blocks of a page of docs/guides, in their order. Arguments: see `Walk.follow`."""
    text = (REPOSITORY / "docs" / "guides" / page).read_text(encoding="utf-8")
    assert until is None or f"\n## {until}\n" in text, f"{page} has no heading {until}"
    text = text if until is None else text.partition(f"\n## {until}\n")[0]
    for mark, language, block in _BLOCK.findall(text):
        yield Block(mark, language, block)


@dataclass
class Walk:
    """One reader.

    Attributes:
        folder: Where the commands run; it is the home directory too.
        changes: Texts that are replaced in commands and files.
        sets: Values by path that each training gets.
    """

    folder: Path
    changes: Mapping[str, str]
    sets: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        self._unused = set(self.changes)

    def follow(self, page: str, *, until: str | None = None) -> list[Done]:
        """Do what a page says. Fails at the first command that fails, and for a change of a text that it has not.

        Args:
            page: Its name in docs/guides.
            until: Stop before this heading.
        """
        done: list[Done] = []
        for block in blocks(page, until):
            if block.mark.startswith("file "):
                self.write(block.mark.removeprefix("file "), block.text)
            elif block.language == "sh" and not block.mark.startswith("skip"):
                lines = block.text.replace("\\\n", " ").splitlines()
                done += [Done(line, self.run(line)) for line in lines if line.strip() and not line.startswith("#")]
        assert not self._unused, f"{page} has no {self._unused}"
        return done

    def write(self, name: str, text: str) -> None:
        """Save a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.changed(text), encoding="utf-8")

    def changed(self, text: str) -> str:
        """A text with the changes."""
        for before, after in self.changes.items():
            if before in text:
                self._unused.discard(before)
                text = text.replace(before, after)
        return text

    def command(self, line: str) -> str:
        """A command as it is run."""
        line = self.changed(line)
        if _TRAIN.match(line):
            line += "".join(f" --set '{path}={json.dumps(value)}'" for path, value in self.sets.items())
        return line

    def environment(self) -> dict[str, str]:
        """The environment of the commands."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "HALCYON_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"HOME": str(self.folder), "XDG_CACHE_HOME": str(self.folder / ".cache"), "PATH": path}
        return kept | own | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_FLAGS}

    def run(self, line: str, *, given: str = "", code: int = 0) -> str:
        """Run a command in a process of its own, which must end with this code. Returns what it prints; of a command
        that fails, also what it says on standard error.
        """
        command = self.command(line)
        ended = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment(),
            input=given,
            capture_output=True,
            text=True,
            timeout=limit(900),
            check=False,
        )
        assert ended.returncode == code, f"{command}\n{ended.stdout[-3000:]}{ended.stderr[-3000:]}"
        return ended.stdout + (ended.stderr if code else "")

    def step(self, root: str) -> int:
        """The step of the newest checkpoint in a root below the folder."""
        return entry_of(Store(CheckpointSpec(root=f"file://{self.folder / root}")), None).step
