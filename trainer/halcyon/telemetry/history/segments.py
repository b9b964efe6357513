"""The files of a history: their names, their format, and which of them count.

A file is a segment of the history and never changes. Its name has the range of numbers that it covers, its level, and
the process group that wrote it: ``metrics/<first>-<last>.<level>.<number>.<writer>.jsonl.zst``. A flush writes a
segment of level 0 with the next number. A merge writes one segment of the next level with the range of the segments
that it holds; those are deleted afterwards. If the process is killed in between, both are there, and a segment whose
range a segment of a higher level covers does not count.

A segment is JSON lines in a Zstandard frame with a checksum. The first line repeats the name of the file, so a segment
under another name is found, and names the segments that a merge could not read. A line ``group`` names a process group,
and the lines after it are the rows of that group. All are checked: a root of a stranger may have anything where a time
or a step should be.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson
import zstandard

from halcyon.host.storage.store import Store
from halcyon.telemetry.history.background import Row
from halcyon.telemetry.log_line import plain, to_camel

_LATEST = 253_402_300_799
"""The last second of the year 9999, after which no calendar of the library goes."""
_MOST_STEP = 2**53
_MOST_NAME = 200
_SPECIAL = ("NaN", "Infinity", "-Infinity")
"""Numbers that JSON cannot express."""
NEEDED = {
    "step": {"step!": "count"},
    "evaluation": {"step!": "count"},
    "task": {"step!": "count", "task!": "name"},
    "sample": {"step!": "count", "prompt!": "text", "text!": "text"},
    "rolledBack": {"step!": "count", "toStep!": "count"},
    "goodput": {"step!": "count", "seconds!": "seconds"},
}
"""Further fields of some kinds of rows."""
METRICS_PREFIX = "metrics/"
FORMAT = 1
MAX_BYTES = 256 << 20
"""Largest size of a segment in memory: a damaged size cannot exhaust the memory."""
_NAME = re.compile(r"(\d{9,})-(\d{9,})\.(\d+)\.(\d{6,})\.([0-9A-Za-z]*)\.jsonl\.zst")
Record = dict[str, Any]
"""A row as it is in the file: ``event``, ``time`` in seconds since 1970, and the fields in camelCase."""


def _kinds(**names: str) -> dict[str, str]:
    """The kind of each field, from the names of the fields of each kind."""
    return {name: kind for kind, fields in names.items() for name in fields.split()}


GROUP = _kinds(count="number! attempt! restart! resumedStep! steps!", name="writer! run!", time="began!")
"""Fields of a process group."""
ROW = _kinds(
    name="event! source tag task cause",
    time="time!",
    count="step toStep tasks",
    number="seconds loss bitsPerByte gradientNorm learningRate tokensPerSecond accuracy standardError centred "
    "wordErrorRate",
    text="message",
)
"""Fields of a row."""


def wrong_field(row: Any, kinds: Mapping[str, str]) -> str | None:
    """The name of a field that is missing or has a wrong type; None: there is none.

    Args:
        row: A row.
        kinds: What fields of some names must be, if the row has them; a name that ends with ! must be there.
    """
    if not isinstance(row, dict):
        return "a row"
    for name, kind in kinds.items():
        field = name.removesuffix("!")
        if not _KINDS[kind](row[field]) if field in row else field != name:
            return field
    return None


def _is_number(value: Any) -> bool:
    return (
        value in _SPECIAL if isinstance(value, str) else isinstance(value, (int, float)) and not isinstance(value, bool)
    )


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "count": lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_STEP,
    "number": _is_number,
    "time": lambda value: _is_number(value) and not isinstance(value, str) and 0 <= value <= _LATEST,
    "name": lambda value: isinstance(value, str) and len(value) <= _MOST_NAME and (value.isprintable() or not value),
    "text": lambda value: isinstance(value, str),
    "seconds": lambda value: (
        isinstance(value, dict) and all(_is_number(one) and one not in _SPECIAL for one in value.values())
    ),
}


def wrong_row(row: Any) -> str | None:
    """The name of a field of a row that is missing or has a wrong type; None: there is none."""
    event = row.get("event") if isinstance(row, dict) else None
    more = NEEDED.get(event, {}) if isinstance(event, str) else {}
    return wrong_field(row, {**{name: kind for name, kind in ROW.items() if f"{name}!" not in more}, **more})


class DamagedSegment(ValueError):
    """A segment is not what was written. The message names its key."""


@dataclass(frozen=True)
class SegmentName:
    """The name of a segment.

    Attributes:
        first: First number of its range.
        last: Last number of its range.
        level: How often its rows were merged.
        number: Number of the process group that wrote it.
        writer: Nonce of the process that wrote it, as HEAD has it.
    """

    first: int
    last: int
    level: int
    number: int
    writer: str

    @property
    def key(self) -> str:
        """Its key below the root."""
        return (
            f"{METRICS_PREFIX}{self.first:09d}-{self.last:09d}.{self.level}.{self.number:06d}.{self.writer}.jsonl.zst"
        )

    @property
    def order(self) -> tuple[int, int, int, str]:
        """Segments in this order are in the order of time, except for those of a writer that has lost the root."""
        return self.first, self.last, self.number, self.writer


def parse_name(key: str) -> SegmentName | None:
    """The name in a key; None if the key is no segment, such as a file that another program left there."""
    match = _NAME.fullmatch(key.removeprefix(METRICS_PREFIX))
    return SegmentName(int(match[1]), int(match[2]), int(match[3]), int(match[4]), match[5]) if match else None


def segments_in(store: Store) -> list[SegmentName]:
    """All segments in a root.

    Raises:
        StoreFailure: The store did not answer.
    """
    return [name for key in store.list(METRICS_PREFIX) if (name := parse_name(key)) is not None]


def live(names: Iterable[SegmentName]) -> list[SegmentName]:
    """The segments that count, in their order. The others are covered: a merge holds their rows."""
    everything = sorted(set(names), key=lambda name: name.order)
    merged = [name for name in everything if name.level]
    return [name for name in everything if not any(covers(other, name) for other in merged)]


def covers(other: SegmentName, name: SegmentName) -> bool:
    """Whether a segment holds the rows of another one, because its range and its level say so."""
    if other == name or other.first > name.first or other.last < name.last or other.level < name.level:
        return False
    same = (other.first, other.last, other.level) == (name.first, name.last, name.level)
    return not same or other.order > name.order


@dataclass(frozen=True)
class ProcessGroupId:
    """The process group of rows: one start of the run.

    Attributes:
        number: One more than that of the group before it.
        attempt: Attempt of its epoch.
        restart: JobSet restart inside the attempt.
        writer: Nonce of its process 0, as HEAD has it.
        resumed_step: Steps that were done when it began. It does the steps after it again if an earlier group had done
            them.
        began: Start of its process 0, in seconds since 1970.
        run: Name of the run.
        steps: Steps of the whole run, as its document said.
    """

    number: int
    attempt: int
    restart: int
    writer: str
    resumed_step: int
    began: float
    run: str = ""
    steps: int = 0

    @property
    def order(self) -> tuple[int, int, int, float, str]:
        """Groups in this order took the root one after the other."""
        return self.number, self.attempt, self.restart, self.began, self.writer


Groups = dict[ProcessGroupId, list[Record]]
"""Rows by process group, each in the order of time."""


def encode_row(row: Row) -> Record:
    """A row in its stored form: camelCase, without members that are None, and numbers that JSON cannot express as
    strings.
    """
    return {"event": row.event, "time": round(row.time, 3), **plain(row.fields)}


def digest(data: bytes) -> str:
    """The SHA-256 by which a link names a segment."""
    return hashlib.sha256(data).hexdigest()


def encode_segment(name: SegmentName, groups: Groups, lost: Iterable[str] = ()) -> bytes:
    """The bytes of a segment. `lost` are the keys of segments that it should hold, and that could not be read."""
    lines = [orjson.dumps({"format": FORMAT, **asdict(name), "lost": sorted(lost)})]
    for group in sorted(groups, key=lambda one: one.order):
        lines.append(orjson.dumps({"event": "group", **{to_camel(key): value for key, value in asdict(group).items()}}))
        lines += map(orjson.dumps, groups[group])
    lines.append(b"")
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(b"\n".join(lines))


def read_segment(key: str, data: bytes | None) -> tuple[Groups, tuple[str, ...]]:
    """The rows of a segment, and the keys of segments that its merge could not read.

    Raises:
        DamagedSegment: The bytes are not a segment, or they were changed after they were written.
    """
    if data is None:
        raise DamagedSegment(f"{key} is missing")
    try:
        if zstandard.get_frame_parameters(data).content_size > MAX_BYTES:
            raise DamagedSegment(f"{key} is damaged (its size)")
        head, *lines = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False).splitlines()
        about, name = orjson.loads(head), parse_name(key)
        if about.pop("format") != FORMAT:
            raise DamagedSegment(f"{key} has a format that this version cannot read; use a newer version of Halcyon")
        lost = tuple(map(str, about.pop("lost")))
        if name is None or about != asdict(name):
            raise DamagedSegment(f"{key} is damaged (its first line is that of another segment)")
        groups: Groups = {}
        rows: list[Record] = []
        for line in lines:
            record = orjson.loads(line)
            is_group = isinstance(record, dict) and record.get("event") == "group"
            if (field := wrong_field(record, GROUP) if is_group else wrong_row(record)) is not None:
                raise DamagedSegment(f"{key} is damaged ({field} is missing or has a wrong type)")
            if is_group:
                rows = groups.setdefault(_group(record), [])
            else:
                rows.append(record)
        if not name.level and any((group.number, group.writer) != (name.number, name.writer) for group in groups):
            raise DamagedSegment(f"{key} is damaged (it has rows of another process group)")
    except DamagedSegment:
        raise
    except (zstandard.ZstdError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedSegment(f"{key} is damaged ({type(error).__name__})") from None
    return groups, lost


def _group(record: Record) -> ProcessGroupId:
    return ProcessGroupId(**{name: record[to_camel(name)] for name in ProcessGroupId.__dataclass_fields__})
