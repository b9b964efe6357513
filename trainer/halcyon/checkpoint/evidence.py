"""The chain of evidence of a root: a link for each committed checkpoint, which names what was computed and the link
that it follows.

A link has the hash of the checkpoint's files, the hash of the numbers of each step since the link before, the hash of
each file of the history, the position in the data, and what computed it. Its own hash is in HEAD. A link is derived
from the manifest alone, so a HEAD that is rebuilt from the checkpoints has the same hashes. The links of deleted
checkpoints stay, so the chain reaches from the newest checkpoint to the beginning of the run. After a return to an
earlier checkpoint the next link follows that one, and the links that were given up are a branch.
"""

import hashlib
import itertools
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from halcyon.checkpoint.parts import in_parallel
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import (
    LINKS_PREFIX,
    SEGMENTS_KEY,
    STEPS_PREFIX,
    CommittedStep,
    Head,
    Link,
    Manifest,
    Segments,
    canonical_json,
)
from halcyon_api.counting import counted

_STEP = struct.Struct("<q")
_MOST_NAMED = 5


def float32_bits(number: float | str | None) -> bytes | None:
    """The bits of a number in float32. All NaNs have the same ones, because JSON has one. None: it is no float32.

    Args:
        number: The number; as text if JSON cannot express it.
    """
    try:
        value = float("missing" if number is None else number)
        return struct.pack("<f", math.nan if math.isnan(value) else value)
    except (OverflowError, ValueError):
        return None


class StepNumbers:
    """The numbers of the steps that no committed checkpoint covers yet."""

    def __init__(self) -> None:
        self.audited: int | None = None
        """Step of the last audit that found all numbers right; None: no audit has."""
        self._steps: dict[int, bytes] = {}

    def add(self, step: int, loss: float, gradient_norm: float) -> None:
        """Record the numbers of a step. A step that is done again replaces the one before."""
        self._steps[step] = _bits(step, loss, gradient_norm) or b""

    def since(self, committed: int, step: int) -> tuple[int, str]:
        """The number of recorded steps after a committed one, up to a step, and their SHA-256. Forgets the committed
        ones.
        """
        self._steps = {number: bits for number, bits in self._steps.items() if number > committed}
        covered = [bits for number, bits in sorted(self._steps.items()) if number <= step]
        return len(covered), hashlib.sha256(b"".join(covered)).hexdigest()

    def pending(self) -> dict[str, str]:
        """The recorded steps, for a snapshot that the run may go back to without a checkpoint."""
        return {str(step): bits.hex() for step, bits in self._steps.items()}

    def take_over(self, pending: Mapping[str, str], audited: int | None) -> None:
        """Go on with the numbers of a snapshot."""
        self.audited = audited
        self._steps = {int(step): bytes.fromhex(bits) for step, bits in pending.items()}

    def went_back(self, step: int) -> None:
        """Forget the steps after this one, and their audits: the run does them again, or leaves them out."""
        self.audited = None if self.audited is None else min(self.audited, step)
        self._steps = {number: bits for number, bits in self._steps.items() if number <= step}


def _bits(step: int, loss: float | str | None, gradient_norm: float | str | None) -> bytes | None:
    """What the hash of the numbers has of a step. None: a number is missing, or is no float32."""
    bits = float32_bits(loss), float32_bits(gradient_norm)
    return None if bits[0] is None or bits[1] is None else _STEP.pack(step) + bits[0] + bits[1]


def unlike_history(
    links: Iterable[Link], rows: Iterable[Mapping[str, Any]], *, is_whole: bool = False
) -> tuple[str, ...]:
    """The links whose numbers are not those that the history of the run shows, one sentence each.

    Args:
        links: The links.
        rows: The steps of the history, with ``step``, ``loss`` and ``gradientNorm``.
        is_whole: Whether every byte of the history is what the run wrote, so the run itself has left out the steps that
            it lacks: a long history keeps old steps at growing distances.
    """
    known = {row["step"]: row for row in rows}
    found: list[str] = []
    for link in links:
        steps = range(link.step - link.steps + 1, link.step + 1)
        missing = [step for step in steps if step not in known]
        shown = [_bits(step, row.get("loss"), row.get("gradientNorm")) for step in steps if (row := known.get(step))]
        if missing and not is_whole:
            found.append(f"the history lacks {_ranges(missing)}, which the link of step {link.step} covers")
        elif not missing and (
            None in shown or hashlib.sha256(b"".join(bits or b"" for bits in shown)).hexdigest() != link.numbers
        ):
            found.append(f"the losses of steps {steps[0]} to {link.step} in the history are not those of the chain")
    return tuple(found)


def _ranges(steps: list[int]) -> str:
    """Rising steps in words."""
    runs = [[step for _, step in same] for _, same in itertools.groupby(enumerate(steps), lambda one: one[1] - one[0])]
    return f"{counted(len(steps), 'step')} ({', '.join(f'{run[0]} to {run[-1]}' for run in runs[:_MOST_NAMED])})"


def link_of(prefix: str, manifest: Manifest) -> Link | None:
    """The link of a checkpoint. None: its manifest has no evidence, because no training made it."""
    found = manifest.evidence
    if found is None:
        return None
    files = canonical_json([file.document() for file in manifest.files])
    return Link(
        path=prefix,
        step=manifest.step,
        epoch=manifest.epoch,
        previous=found.previous,
        state=hashlib.sha256(files).hexdigest(),
        sections=manifest.fingerprints.sections,
        data_position=manifest.data_position,
        steps=found.steps,
        numbers=found.numbers,
        segments=found.segments,
        hardware=found.hardware,
        audited=found.audited,
        mesh=manifest.mesh,
        versions=manifest.versions,
    )


def hash_of(link: Link) -> str:
    """The SHA-256 of a link, by which HEAD and the next link name it."""
    return hashlib.sha256(canonical_json(link.document())).hexdigest()


def key_of(prefix: str) -> str:
    """Where the link of a checkpoint is stored."""
    return f"{LINKS_PREFIX}{prefix.removeprefix(STEPS_PREFIX).rstrip('/')}.json"


@dataclass(frozen=True)
class Chain:
    """The links from the newest checkpoint back to the beginning.

    Attributes:
        links: The links, newest first.
        others: Number of stored links that are not in the chain: of branches that the run has given up, and of saves
            that were not committed.
        damages: What is wrong, one sentence for each fault; empty: each link is what was written.
        segments: SHA-256 of each file of the history, by key, as the newest link names them. After a return to an
            earlier checkpoint it is not in the chain.
    """

    links: tuple[Link, ...]
    others: int
    damages: tuple[str, ...]
    segments: Mapping[str, str]


def segments_of(store: Store, head: Head | None) -> dict[str, str]:
    """SHA-256 of each file of the history, by key, as the newest link and the process that ended last name them.

    Raises:
        StoreFailure: The store did not answer.
    """
    end, _ = read_end(store)
    is_copy = end is not None and not end.writer
    linked = {} if is_copy or not head else read_chain(store, head.committed).segments
    return {**linked, **(end.segments if end else {})}


def read_end(store: Store) -> tuple[Segments | None, str | None]:
    """What the process that ended last says of the history, and why it cannot be read; None if nothing is wrong.

    Raises:
        StoreFailure: The store did not answer.
    """
    data = store.read(SEGMENTS_KEY).data
    try:
        return (None if data is None else Segments.model_validate_json(data)), None
    except ValidationError:
        return None, f"{SEGMENTS_KEY} cannot be read"


def _stored(store: Store) -> dict[str, bytes]:
    keys = [key for key in store.list(LINKS_PREFIX) if key.endswith(".json")]
    found = in_parallel([lambda key=key: store.read(key).data for key in keys])
    return {key: data for key, data in zip(keys, found, strict=True) if data is not None}


def parsed_link(data: bytes | None) -> Link | None:
    """A link, or None if the bytes are none in the form in which they are hashed."""
    try:
        return None if data is None else Link.model_validate_json(data)
    except ValidationError:
        return None


def _newest_segments(links: Mapping[str, Link], newest: str | None) -> Mapping[str, str]:
    """What the newest link says of the history. A run that went back has later links than that of its newest
    checkpoint: those that follow it.

    Args:
        links: All stored links, by their hashes.
        newest: The hash of the link of the newest checkpoint.
    """
    line, later = {newest}, list[Link]()
    while more := {digest for digest, link in links.items() if link.previous in line} - line:
        line |= more
        later += (links[digest] for digest in more)
    if named := [(link.epoch, max(link.segments), link.segments) for link in later if link.segments]:
        return max(named, key=lambda one: one[:2])[2]
    while (link := links.get(newest or "")) is not None:
        if link.segments:
            return link.segments
        newest = link.previous
    return {}


def read_chain(store: Store, committed: Iterable[CommittedStep]) -> Chain:
    """Read the chain that ends with the newest of some committed checkpoints, and check it.

    Args:
        store: The root.
        committed: The checkpoints that HEAD lists, newest first.

    Raises:
        StoreFailure: The store did not answer.
    """
    entries, stored = tuple(committed), _stored(store)
    by_hash = {hashlib.sha256(data).hexdigest(): (key, data) for key, data in stored.items()}
    damages = [
        f"the link of step {entry.step} ({entry.path}) is missing, or is not what was written"
        for entry in entries
        if entry.link is not None and by_hash.get(entry.link, ("", b""))[0] != key_of(entry.path)
    ]
    links: list[Link] = []
    newest = wanted = entries[0].link if entries else None
    while wanted is not None:
        key, data = by_hash.get(wanted, ("", None))
        after = f"before step {links[-1].step}" if links else "of the newest checkpoint"
        link = parsed_link(data)
        if link is None or key != key_of(link.path):
            damages.append(f"the link {after} is missing, or is not what was written")
            break
        if links and link.step >= links[-1].step:
            damages.append(f"the link {after} is of the later step {link.step}")
            break
        if links and links[-1].steps != links[-1].step - link.step:
            newer = links[-1]
            damages.append(f"the link of step {newer.step} covers {newer.steps} steps, and follows step {link.step}")
        links.append(link)
        wanted = link.previous
    parsed = {digest: link for digest, (_, data) in by_hash.items() if (link := parsed_link(data)) is not None}
    segments = _newest_segments(parsed, newest)
    return Chain(tuple(links), len(stored) - len(links), tuple(dict.fromkeys(damages)), segments)
