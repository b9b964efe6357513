"""Copies the history of a run up to a checkpoint into another root, whose next process group continues it."""

from __future__ import annotations

from halcyon.storage.store import Store
from halcyon.telemetry.history.background import STEP
from halcyon.telemetry.history.merging import merged
from halcyon.telemetry.history.reading import read_groups
from halcyon.telemetry.history.segments import SegmentName, encode_segment


def copy_history(store: Store, to: Store, step: int) -> None:
    """Write the rows of steps up to `step` into a root without history, as one segment; nothing if there is no history.

    Process groups that began later are left out. A damaged segment is left out too: the checkpoint does not depend on
    it.

    Raises:
        StoreFailure: A store did not answer.
    """
    groups, _, _ = read_groups(store)
    kept = {
        group: [row for row in rows if row["event"] != STEP or row["step"] <= step]
        for group, rows in merged([groups]).items()
        if group.resumed_step <= step
    }
    if not kept:
        return
    newest = max(kept, key=lambda group: group.order)
    name = SegmentName(1, 1, 1, newest.number, newest.writer)
    to.write(name.key, encode_segment(name, kept))
