"""Compares the history of a root with what its links, and the process that ended last, say of it.

They name each segment with its SHA-256. Three kinds of segments have no name there and need none: those that a merge
covers, those that were written after the newest link, and a merge whose sources are all still there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from halcyon.checkpoint.evidence import Chain, read_chain, read_end, unlike_history
from halcyon.checkpoint.opening import load_head
from halcyon.checkpoint.parts import in_parallel
from halcyon.host.storage.store import Store
from halcyon.telemetry.history import segments
from halcyon.telemetry.history.merging import joined, merged
from halcyon.telemetry.history.reading import history_of
from halcyon_api.checkpoint_documents import HEAD_KEY, Head
from halcyon_api.counting import counted

_TRIES = 5
"""Reads of a root that changes meanwhile."""


@dataclass(frozen=True)
class Evidence:
    """What a root shows of how its checkpoints were computed.

    Attributes:
        head: HEAD, rebuilt from the checkpoints if necessary; None if there is no checkpoint.
        head_damage: Why HEAD itself could not be used.
        chain: The chain of evidence.
        damages: What is wrong with the history, one sentence for each fault.
        says: What was read of the history and compared, in a few words.
    """

    head: Head | None
    head_damage: str | None
    chain: Chain
    damages: tuple[str, ...]
    says: str


def read_evidence(store: Store) -> Evidence:
    """Read HEAD, the chain and the history, and compare them. The run may train meanwhile.

    Raises:
        NoValidCheckpoint: HEAD is damaged and cannot be rebuilt.
        StoreFailure: The store did not answer.
    """
    before, found = _listing(store), _read(store)
    for _ in range(_TRIES):
        now = _listing(store)
        if not (found.damages or found.chain.damages) or now == before:
            break
        before, found = now, _read(store)
    return found


def _listing(store: Store) -> tuple[bytes | None, list[str]]:
    return store.read(HEAD_KEY).data, store.list(segments.METRICS_PREFIX)


def _read(store: Store) -> Evidence:
    head, head_damage = load_head(store)
    chain = read_chain(store, head.committed if head else ())
    end, end_damage = read_end(store)
    is_copy = end is not None and not end.writer
    names = sorted(segments.segments_in(store), key=lambda name: name.order)
    found = in_parallel([lambda name=name: store.read(name.key).data for name in names])
    data = {name.key: bytes_ for name, bytes_ in zip(names, found, strict=True) if bytes_ is not None}
    parts: dict[segments.SegmentName, segments.Groups] = {}
    damages = [] if end_damage is None else [end_damage]
    for name in names:
        try:
            parts[name], lost = segments.read_segment(name.key, data.get(name.key))
        except segments.DamagedSegment as damage:
            damages.append(str(damage))
        else:
            damages += (f"{name.key} lacks {key}, which could not be read when they were merged" for key in lost)
    stated = [{} if is_copy else chain.segments, end.segments if end else {}]
    for key, digest in dict.fromkeys(pair for each in stated for pair in each.items()):
        held = data.get(key) or store.read(key).data  # links also name rollouts
        if held is None:
            damages.append(f"{key} is missing")
        elif segments.digest(held) != digest:
            name = segments.parse_name(key)
            damages.append(f"{key}{_steps(parts.get(name) if name else None)} is not what was written")
    named = {key for each in stated for key in each}
    held = [name for name in map(segments.parse_name, named) if name is not None]
    last = max((name.last for name in held), default=0)
    counting, later = segments.live(names), []
    for name in names:
        if name not in parts or any(name == one or segments.covers(one, name) for one in held):
            continue
        if name.first > last:
            later += [name] if name in counting else []
        elif name.level and not _is_merge(name, parts):
            damages.append(f"{name.key} does not hold the rows of the files that it was merged from")
        elif not name.level and name in counting:
            damages.append(f"{name.key} was added: no link names it")
    if later and end is not None and head is not None and end.writer == head.writer:
        damages += (f"{name.key} was added after the run had ended" for name in later)
    history = history_of(store.root, joined(parts[name] for name in counting if name in parts))
    numbers = unlike_history(chain.links, history.steps, is_whole=bool(named) and not is_copy and not damages)
    says = f"{counted(len(counting), 'file')} with {counted(len(history.steps), 'step')}"
    says += f", every byte of {counted(len(counting) - len(later), 'file')} is what was written" if named else ""
    if later:
        says += f"; no link covers {counted(len(later), 'file')}{_steps(joined(parts[name] for name in later))} yet"
    if is_copy:
        says += "; a copy wrote them, so only losses and gradient norms are compared with the links"
    return Evidence(head, head_damage, chain, tuple(dict.fromkeys((*damages, *numbers))), says)


def _is_merge(name: segments.SegmentName, parts: Mapping[segments.SegmentName, segments.Groups]) -> bool:
    """Whether a segment holds the rows of the segments that it covers."""
    sources = segments.live(one for one in parts if one != name and segments.covers(name, one))
    return bool(sources) and merged(parts[one] for one in sources) == parts[name]


def _steps(groups: segments.Groups | None) -> str:
    """The steps of rows in words."""
    steps = [row["step"] for rows in (groups or {}).values() for row in rows if row["event"] == "step"]
    return f" (steps {min(steps)} to {max(steps)})" if steps else ""
