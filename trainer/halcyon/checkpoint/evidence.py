"""The chain of evidence of a root: a link for each committed checkpoint, which names what was computed and the link
that it follows.

A link has the hash of the checkpoint's files, the hash of the numbers of each step since the link before, the position
in the data, and what computed it. Its own hash is in HEAD. A link is derived from the manifest alone, so a HEAD that is
rebuilt from the checkpoints has the same hashes. The links of deleted checkpoints stay, so the chain reaches from the
newest checkpoint to the beginning of the run. After a return to an earlier checkpoint the next link follows that one,
and the links that were given up are a branch.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from halcyon.checkpoint.parts import in_parallel
from halcyon.storage.store import Store
from halcyon_api.checkpoint_documents import (
    LINKS_PREFIX,
    STEPS_PREFIX,
    CommittedStep,
    Link,
    Manifest,
    canonical_json,
)

_STEP = struct.Struct("<qff")
"""A step, and the bits of its loss and gradient norm in float32."""


class StepNumbers:
    """The numbers of the steps that no committed checkpoint covers yet."""

    def __init__(self) -> None:
        self.audited: int | None = None
        """Step of the last audit that found all numbers right; None: no audit has."""
        self._steps: dict[int, bytes] = {}

    def add(self, step: int, loss: float, gradient_norm: float) -> None:
        """Record the numbers of a step. A step that is done again replaces the one before."""
        self._steps[step] = _STEP.pack(step, loss, gradient_norm)

    def since(self, committed: int, step: int) -> tuple[int, str]:
        """The number of recorded steps after a committed one, up to a step, and their SHA-256. Forgets the committed
        ones.
        """
        self._steps = {number: bits for number, bits in self._steps.items() if number > committed}
        covered = [bits for number, bits in sorted(self._steps.items()) if number <= step]
        return len(covered), hashlib.sha256(b"".join(covered)).hexdigest()

    def went_back(self, step: int) -> None:
        """Forget the steps after this one, and their audits: the run does them again, or leaves them out."""
        self.audited = None if self.audited is None else min(self.audited, step)
        self._steps = {number: bits for number, bits in self._steps.items() if number <= step}


def unlike_history(links: Iterable[Link], rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The links whose numbers are not those that the history of the run shows, one sentence each.

    A link is left out if the history lacks one of its steps, or has a number that JSON cannot express.

    Args:
        links: The links.
        rows: The steps of the history, with ``step``, ``loss`` and ``gradientNorm``.
    """
    known = {row["step"]: (row.get("loss"), row.get("gradientNorm")) for row in rows}
    found: list[str] = []
    for link in links:
        steps = range(link.step - link.steps + 1, link.step + 1)
        shown, numbers = [known.get(step, (None, None)) for step in steps], StepNumbers()
        if not all(isinstance(one, float | int) for pair in shown for one in pair):
            continue
        for step, (loss, norm) in zip(steps, shown, strict=True):
            numbers.add(step, loss, norm)  # type: ignore[arg-type]
        if numbers.since(0, link.step)[1] != link.numbers:
            found.append(f"the losses of steps {steps[0]} to {link.step} in the history are not those of the chain")
    return tuple(found)


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
        hardware=found.hardware,
        audited=found.audited,
        mesh=manifest.mesh,
        versions=manifest.versions,
    )


def encode_link(link: Link) -> bytes:
    """The stored form of a link."""
    return canonical_json(link.document())


def hash_of(link: Link) -> str:
    """The SHA-256 of a link, by which HEAD and the next link name it."""
    return hashlib.sha256(encode_link(link)).hexdigest()


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
    """

    links: tuple[Link, ...]
    others: int
    damages: tuple[str, ...]


def read_chain(store: Store, committed: Iterable[CommittedStep]) -> Chain:
    """Read the chain that ends with the newest of some committed checkpoints, and check it.

    Args:
        store: The root.
        committed: The checkpoints that HEAD lists, newest first.

    Raises:
        StoreFailure: The store did not answer.
    """
    entries = tuple(committed)
    keys = [key for key in store.list(LINKS_PREFIX) if key.endswith(".json")]
    stored = dict(zip(keys, in_parallel([lambda key=key: store.read(key).data for key in keys]), strict=True))
    by_hash = {hashlib.sha256(data).hexdigest(): (key, data) for key, data in stored.items() if data is not None}
    damages = [
        f"the link of step {entry.step} ({entry.path}) is missing, or is not what was written"
        for entry in entries
        if entry.link is not None and by_hash.get(entry.link, ("", b""))[0] != key_of(entry.path)
    ]
    links: list[Link] = []
    wanted = entries[0].link if entries else None
    while wanted is not None:
        _, data = by_hash.get(wanted, ("", None))
        after = f"before step {links[-1].step}" if links else "of the newest checkpoint"
        try:
            if data is None:
                raise ValueError
            link = Link.model_validate_json(data)
        except (ValueError, ValidationError):
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
    return Chain(tuple(links), len(stored) - len(links), tuple(dict.fromkeys(damages)))
