"""Starts child processes of `child`, and reads their events."""

from __future__ import annotations

import json
from typing import Any

from tests.suite.limits import limit
from tests.trainer.checkpoint.helpers import Root, child_environment
from tests.trainer.support.forked import Forked


class Child:
    """One child process."""

    module = "tests.trainer.checkpoint.child"

    def __init__(self, role: str, root: Root, **options: Any) -> None:
        arguments = [role, json.dumps({"spec": root.spec.document(), **options})]
        self.popen = Forked(self.module, arguments, child_environment(root))
        self.events: list[dict[str, Any]] = []

    def hear(self, *kinds: str) -> dict[str, Any]:
        """Read up to the next event of one of these kinds (of any kind without arguments); an empty one after the child
        has ended.
        """
        for line in self.popen.stdout:
            if line.startswith("{"):
                self.events.append(json.loads(line))
                if not kinds or self.events[-1]["event"] in kinds:
                    return self.events[-1]
        return {}

    def tell(self, line: str = "") -> None:
        """Write one line to the child's stdin."""
        self.popen.stdin.write(f"{line}\n")
        self.popen.stdin.flush()

    def all(self, event: str) -> list[dict[str, Any]]:
        """Wait for the end of the child; returns all its events of a kind."""
        self.end()
        return [one for one in self.events if one["event"] == event]

    def end(self, *, kill: bool = False) -> int:
        """Read all events, and wait for the exit code."""
        if kill:
            self.popen.kill()
        while self.hear():
            continue
        return self.popen.wait(limit(120))

    def noise(self) -> str:
        """The stderr of a child that has ended."""
        return self.popen.stderr.read()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.popen.close()
