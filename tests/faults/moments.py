"""The current activity of a process, kept in a file that remains after the process ends.

The file has two bytes: one for the main thread, one for the thread that saves. A test can so aim a kill at an activity,
and read afterwards which activity it hit.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEP, RESTORE, SAVE, COMMIT, DELETION = MOMENTS = ("steps", "restores", "saves", "commits", "deletions")


class Moments:
    """The file, as the test reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(b"\0\0")
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), 2)

    def now(self) -> str:
        """The activity of the process now, or when it was killed.

        A save in the background has precedence over the step beside it.
        """
        main, background = self._bytes[0], self._bytes[1]
        return MOMENTS[background or main]

    def expect_start(self) -> None:
        """Reset the file for a new process, which begins with a restore."""
        self._bytes[0], self._bytes[1] = MOMENTS.index(RESTORE), 0


def record_activity(path: str) -> None:
    """Make the engine of this process, and of processes forked from it, write its activity to the file."""
    from halcyon.checkpoint import checkpointer, save_roles

    with open(path, "r+b") as file:  # noqa: PTH123 - the path is used only once
        memory = mmap.mmap(file.fileno(), 2)

    def during(
        moment: str, thread: int, function: Callable[..., Any], when: Callable[..., bool] = lambda *_: True
    ) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            before = memory[thread]
            if when(*args):
                memory[thread] = MOMENTS.index(moment)
            try:
                return function(*args, **options)
            finally:
                memory[thread] = before

        return run

    engine = checkpointer.Checkpointer
    engine.__init__ = during(RESTORE, 0, engine.__init__)
    restore = during(RESTORE, 0, engine.restore)

    def restore_and_go_on(self: Any, template: Any) -> Any:
        restored = restore(self, template)
        memory[0] = MOMENTS.index(STEP)
        return restored

    engine.restore = restore_and_go_on
    save_roles.Leader.save = during(SAVE, 1, save_roles.Leader.save)
    save_roles.commit = during(COMMIT, 1, save_roles.commit)
    save_roles.finish_deletions = during(
        DELETION, 1, save_roles.finish_deletions, lambda _, keeper: bool(keeper.head.deleting)
    )
    save_roles.delete_orphans = during(DELETION, 1, save_roles.delete_orphans)
