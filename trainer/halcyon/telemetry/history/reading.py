"""Reads the history of a run from its root, while the run trains or years later, resolves the steps that were done
again, and copies it into another root.

A process group that resumes at step n does the steps after n again, as the checkpoint with which it began says. So of
the rows of earlier groups, those of steps after n do not count. This also removes what a writer has added after it lost
the root. Evaluations and texts of the model are kept by step, the latest of each; other events are all kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from halcyon.host.clock import timestamp
from halcyon.host.storage.store import Store
from halcyon.telemetry.history.background import STEP
from halcyon.telemetry.history.merging import ACCOUNT, ROLLED_BACK, SAMPLE, first_step, joined, merged, resolved
from halcyon.telemetry.history.segments import (
    METRICS_PREFIX,
    DamagedSegment,
    Groups,
    ProcessGroupId,
    Record,
    SegmentName,
    digest,
    encode_segment,
    live,
    read_segment,
    segments_in,
)
from halcyon.telemetry.log_line import to_camel
from halcyon_api import checkpoint_documents
from halcyon_api.accounts import divide
from halcyon_api.status.goodput import CAUSES, GoodputSeconds
from halcyon_api.status.run_status import HistoryEntry

_TRIES = 5
"""Reads of a history whose segments are merged meanwhile."""
Rows = tuple[Record, ...]
_Latest = dict[tuple[int, str, str, str], Record]
"""Rows by step, source, tag and event."""
_ENDS = {"done": "completed", "preempted": "preempted"}


@dataclass(frozen=True)
class ProcessGroupHistory:
    """What a process group did.

    Attributes:
        group: The process group.
        last_step: Steps done when it last wrote.
        last_time: When it last wrote, in seconds since 1970.
        ended: The cause of its end; empty if it wrote none, because it still trains or was killed.
        message: One sentence about its end.
        seconds: Its seconds by cause, with those of repeated steps under lost work; zero if it wrote no account.
        repeated: Steps that this group or a later one did again.
    """

    group: ProcessGroupId
    last_step: int
    last_time: float
    ended: str
    message: str
    seconds: GoodputSeconds
    repeated: int


@dataclass(frozen=True)
class History:
    """The history of a run.

    Attributes:
        root: Address of the root.
        groups: Its process groups, the oldest first; empty if the root has no history.
        steps: One row for each step, in their order. Of a long run, old steps are kept at growing distances.
        evaluations: One row for each evaluated step, and source if there is one.
        samples: One row for each text that the model wrote while it trained, in the order of steps.
        events: All other events, in the order of time; each has ``attempt`` and ``restart``.
        files: Number of segments.
        damages: A sentence about each segment that is damaged and was left out, and about each that is missing.
        origin: The checkpoint of another run that the run began from; None if it began with none.
    """

    root: str
    groups: tuple[ProcessGroupHistory, ...]
    steps: Rows
    evaluations: Rows
    samples: Rows
    events: Rows
    files: int
    damages: tuple[str, ...]
    origin: checkpoint_documents.OriginRecord | None = None

    @property
    def run(self) -> str:
        """Name of the run."""
        return self.groups[-1].group.run if self.groups else ""

    @property
    def planned_steps(self) -> int:
        """Steps of the whole run, as the last process group knew them."""
        return self.groups[-1].group.steps if self.groups else 0

    @property
    def done_steps(self) -> int:
        """Steps done when the last process group last wrote."""
        return self.groups[-1].last_step if self.groups else 0

    @property
    def complete(self) -> bool:
        """Whether all steps are done."""
        return bool(self.groups) and self.groups[-1].ended == "completed"

    @property
    def seconds(self) -> GoodputSeconds:
        """Seconds by cause, over all process groups."""
        totals = dict.fromkeys(CAUSES, 0)
        for one in self.groups:
            for cause, count in one.seconds.milliseconds().items():
                totals[cause] += count
        return GoodputSeconds.of_milliseconds(totals)

    @property
    def stopped_seconds(self) -> float:
        """Seconds between the process groups, in which no process of the run wrote: it was stopped, or waited for
        hardware.
        """
        return sum(max(0.0, after.group.began - before.last_time) for before, after in pairwise(self.groups))


def list_segments(store: Store) -> tuple[list[SegmentName], list[SegmentName]]:
    """The segments in a root that count, in their order, and those that a killed merge has left.

    Raises:
        StoreFailure: The store did not answer.
    """
    present = segments_in(store)
    counting = live(present)
    return counting, sorted(set(present) - set(counting), key=lambda name: name.order)


def read_history(store: Store) -> History:
    """Read the history of a root. Segments that are damaged are left out and named.

    Raises:
        StoreFailure: The store did not answer.
    """
    groups, files, damages = read_groups(store)
    data, origin = store.read(checkpoint_documents.ORIGIN_KEY).data, None
    try:
        origin = None if data is None else checkpoint_documents.decode_origin(data)
    except checkpoint_documents.DamagedDocument as damage:
        damages.append(str(damage))
    return replace(history_of(store.root, groups, files=files, damages=damages), origin=origin)


def read_groups(store: Store) -> tuple[Groups, int, list[str]]:
    """The rows of a root by process group, the number of segments, and a sentence about each damaged one.

    Raises:
        StoreFailure: The store did not answer.
    """
    names, _ = list_segments(store)
    parts, damages = read_segments(store, names)
    for _ in range(_TRIES):
        again = list_segments(store)[0] if damages else names
        if again == names:
            break
        names = again  # the run has merged some of them meanwhile
        parts, damages = read_segments(store, names)
    return joined(parts), len(names), damages


def read_segments(store: Store, names: Sequence[SegmentName]) -> tuple[list[Groups], list[str]]:
    """The rows of segments, in the given order, and a sentence about each one that is damaged, which is left out, or
    whose number is missing.

    Raises:
        StoreFailure: The store did not answer.
    """
    parts: list[Groups] = []
    damages: list[str] = []
    last = 0
    for name in names:
        if name.first > last + 1:
            missing = f"no file has the numbers {last + 1} to {name.first - 1}"
            damages.append(f"{METRICS_PREFIX}: {missing}, so the history lacks their rows")
        last = max(last, name.last)
        try:
            groups, lost = read_segment(name.key, store.read(name.key).data)
            parts.append(groups)
            damages += (f"{name.key} lacks {key}, which could not be read when they were merged" for key in lost)
        except DamagedSegment as damage:
            damages.append(str(damage))
    return parts, damages


def history_of(root: str, groups: Groups, *, files: int = 0, damages: Sequence[str] = ()) -> History:
    """The history of rows that were joined."""
    kept = resolved(groups)
    steps = [row for rows in kept.values() for row in rows if row["event"] == STEP]
    latest: _Latest = {}
    events: list[Record] = []
    for group, rows in kept.items():
        latest = _until(latest, group.resumed_step)
        for row in rows:
            if row["event"] == ROLLED_BACK:
                latest = _until(latest, row["toStep"])
            if row["event"] in ("evaluation", SAMPLE):
                latest[row["step"], row.get("source", ""), row.get("tag", ""), row["event"]] = row
            elif row["event"] not in (STEP, ACCOUNT):
                events.append({**row, "attempt": group.attempt, "restart": group.restart})
    ordered = [latest[key] for key in sorted(latest)]
    return History(
        root=root,
        groups=_accounts(groups),
        steps=tuple(sorted(steps, key=lambda row: row["step"])),
        evaluations=tuple(row for row in ordered if row["event"] != SAMPLE),
        samples=tuple(row for row in ordered if row["event"] == SAMPLE),
        events=tuple(sorted(events, key=lambda row: row["time"])),
        files=files,
        damages=tuple(damages),
    )


def _until(rows: _Latest, step: int) -> _Latest:
    """The rows without those after a step: their models were left behind."""
    return {key: row for key, row in rows.items() if key[0] <= step}


def _accounts(groups: Groups) -> tuple[ProcessGroupHistory, ...]:
    entries = [_entry(group, rows) for group, rows in groups.items()]
    histories: list[ProcessGroupHistory] = []
    for index, (group, rows) in enumerate(groups.items()):
        seconds, repeated = divide(entries[index], entries[index + 1 :])
        repeated += sum(row["step"] - row["toStep"] for row in rows if row["event"] == ROLLED_BACK)
        end = next((row for row in reversed(rows) if row["event"] in (*_ENDS, "error")), None)
        histories.append(
            ProcessGroupHistory(
                group=group,
                last_step=entries[index].to_step or 0,
                last_time=max((row["time"] for row in rows), default=group.began),
                ended="" if end is None else _ENDS.get(end["event"]) or end.get("cause", "failed"),
                message="" if end is None else end.get("message", ""),
                seconds=seconds,
                repeated=repeated,
            )
        )
    return tuple(histories)


def _entry(group: ProcessGroupId, rows: Sequence[Record]) -> HistoryEntry:
    """The process group in the form in which the operator keeps it, whose rules of counting apply here too."""
    account = next((row for row in reversed(rows) if row["event"] == ACCOUNT), None)
    # The newest row, not the greatest step: the group may have gone back.
    last = next((row["step"] for row in reversed(rows) if row["event"] in (STEP, ACCOUNT)), group.resumed_step)
    seconds = GoodputSeconds()
    if account is not None:
        known = {cause: account["seconds"].get(to_camel(cause), 0.0) for cause in CAUSES}
        seconds = GoodputSeconds(**known)
    return HistoryEntry(
        attempt=group.attempt,
        restart=group.restart,
        started_at=timestamp(group.began),
        from_step=first_step(group, rows),
        to_step=last,
        seconds=seconds,
    )


def copy_history(store: Store, to: Store, step: int) -> None:
    """Write the rows of steps up to `step` into a root without history, as one segment, which `Segments` names, because
    no link does; nothing if there is no history.

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
    data = encode_segment(name, kept)
    to.write(name.key, data)
    end = checkpoint_documents.Segments(writer="", segments={name.key: digest(data)})
    to.write(checkpoint_documents.SEGMENTS_KEY, checkpoint_documents.canonical_json(end.document()))
