"""``halcyon`` that is killed while it goes back: ``python -m tests.trainer.support.rollback_child train RUN.YAML ...``.

POISON=BATCH: the loss weights of the batch of this number, counted from 0, are not a number; with SPIKE set, its
targets are bytes that the corpus does not have. KILLED=FILE: the process kills itself once, and then makes the file;
KILL=before: before HEAD is changed, KILL=after: after it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from halcyon.checkpoint import Checkpointer
from halcyon.commands.main import app
from halcyon.data.loader import Loader

batch, go_back = Loader.batch, Checkpointer.go_back


def poisoned(loader: Loader, step: int, state: Any) -> Any:
    found = batch(loader, step, state)
    if step != int(os.environ["POISON"]):
        return found
    if "SPIKE" in os.environ:
        return found | {"targets": (found["targets"] + 128) % 256}
    return found | {"weights": found["weights"] * float("nan")}


def killed(checkpointer: Checkpointer, back: Any) -> Any:
    die_once("before")
    record = go_back(checkpointer, back)
    die_once("after")
    return record


def die_once(moment: str) -> None:
    mark = Path(os.environ.get("KILLED", "/"))
    if os.environ.get("KILL") == moment and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


Loader.batch = poisoned
Checkpointer.go_back = killed

if __name__ == "__main__":
    app()
