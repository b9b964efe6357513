"""Rows, process groups and roots for the tests of the history."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from halcyon.host.storage.store import Store
from halcyon.telemetry.history.background import Row
from halcyon.telemetry.history.segments import ProcessGroupId
from halcyon.telemetry.history.writer import HistoryWriter
from halcyon_api.checkpoint_documents import HEAD_KEY, Epoch, Head, Owner, encode_head
from halcyon_api.spec.checkpoint import CheckpointSpec


def group(
    number: int = 1, *, resumed: int = 0, attempt: int | None = None, writer: str = "", began: float | None = None
) -> ProcessGroupId:
    return ProcessGroupId(
        number=number, attempt=number if attempt is None else attempt, restart=0, writer=writer or f"w{number}",
        resumed_step=resumed,
        began=1000.0 * number if began is None else began, run="tiny", steps=100,
    )  # fmt: skip


def step(number: int, loss: float = 1.0) -> dict[str, Any]:
    return {"event": "step", "time": float(number), "step": number, "loss": loss}


def steps(first: int, last: int, loss: float = 1.0) -> list[dict[str, Any]]:
    return [step(number, loss) for number in range(first, last + 1)]


def row(number: int, loss: float = 1.0, **fields: Any) -> Row:
    return Row("step", float(number), {"step": number, "loss": loss, **fields})


def root(folder: Path, writer: str = "w1") -> Store:
    """A root whose HEAD names a writer."""
    store = Store(CheckpointSpec(root=f"file://{folder}"))
    store.write(
        HEAD_KEY,
        encode_head(
            Head(owner=Owner(namespace="tests", name="tiny"), epoch=Epoch(attempt=1, restart=0), writer=writer)
        ),
    )
    return store


class Recorder:
    """A writer of the history, with a clock that the test moves, and its warnings."""

    def __init__(self, place: CheckpointSpec, group: ProcessGroupId, *, seconds: float = 3.0) -> None:
        self.now, self.done, self.warnings = 0.0, group.resumed_step, list[str]()
        self.writer = HistoryWriter(
            place, group, account=lambda: {"step": self.done, "seconds": {"productive_step": seconds}},
            on_warning=self.warnings.append,
            clock=lambda: self.now, wall=lambda: 1000.0 * group.number + 500.0,
        )  # fmt: skip
        # A commit asks the writer's own thread, which must not take rows while the test's thread does.
        take, one_thread = self.writer._take, threading.Lock()

        def taken(*arguments: Any) -> None:
            with one_thread:
                take(*arguments)

        self.writer._take = taken

    def flush(self, rows: list[Row]) -> None:
        """Hand over rows and flush them, in this thread."""
        self.now += 1000.0
        self.done = max([self.done, *(one.fields["step"] for one in rows if "step" in one.fields)])
        self.writer._take(rows, True, False)
