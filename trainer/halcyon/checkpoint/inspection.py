"""Reads a checkpoint root without taking it, for users, tools and tests. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass

from halcyon.checkpoint.collect import unnamed
from halcyon.checkpoint.opening import load_head
from halcyon.checkpoint.unlisted import FIRST, LAST, unlisted_prefixes
from halcyon.checkpoint.verify import find_damage
from halcyon.errors import NoValidCheckpoint
from halcyon.storage.failures import StoreFailure, as_exit
from halcyon.storage.store import Store
from halcyon_api.checkpoint_documents import HEAD_KEY, BadStep, CommittedStep, Head, step_prefix
from halcyon_api.spec.checkpoint import CheckpointSpec


@dataclass(frozen=True)
class Listing:
    """The contents of a root."""

    head: Head | None
    """HEAD, rebuilt from the checkpoints if necessary; None if the root holds no checkpoint."""
    head_damage: str | None
    """Why HEAD itself could not be used."""
    committed: tuple[CommittedStep, ...]
    """Newest first."""
    bad: tuple[BadStep, ...]
    unfinished: tuple[str, ...]
    """Prefixes of checkpoints that are being written, are being deleted, or were given up."""
    older: int = 0
    """Number of older committed checkpoints that did not fit on the page."""


def list_checkpoints(spec: CheckpointSpec, *, limit: int | None = None, before: int | None = None) -> Listing:
    """List the contents of a root, or one page of them.

    Args:
        spec: The root.
        limit: Largest number of committed checkpoints, newest first. None: all.
        before: List only checkpoints of earlier steps. None: all.

    Raises:
        TrainerExit: The root cannot be read.
    """
    try:
        store = Store(spec)
        try:
            head, damage = load_head(store, store.read(HEAD_KEY).data)
        except NoValidCheckpoint as error:
            head, damage = None, str(error)
        candidates = (
            [entry for entry in head.committed if before is None or entry.step < before] if head is not None else []
        )
        page = tuple(candidates[:limit])
        older = len(candidates) - len(page)
        first, last = _first_of(page[-1].step) if older else FIRST, LAST if before is None else _first_of(before)
        bad = tuple(one for one in head.bad if first <= one.path < last) if head is not None else ()
        found = unlisted_prefixes(store, (one.path for one in (*page, *bad)), first, last)
    except StoreFailure as failure:
        raise as_exit(failure, spec.root) from None
    if head is None:
        return Listing(None, damage, (), (), found)
    deleting = tuple(path for path in head.deleting if first <= path < last)
    return Listing(head, damage, page, bad, (*deleting, *unnamed(found, head)), older)


def _first_of(step: int) -> str:
    """A key that sorts before all prefixes of a step and after the prefixes of earlier steps."""
    return step_prefix(step, 0, "")[: -len(".000000./")]


def verify_checkpoint(spec: CheckpointSpec, entry: CommittedStep) -> tuple[str, ...]:
    """Read a whole checkpoint and check every byte.

    Returns:
        The damage, one sentence for each fault; empty if the checkpoint is intact.

    Raises:
        TrainerExit: The root cannot be read.
    """
    try:
        return find_damage(Store(spec), entry)
    except StoreFailure as failure:
        raise as_exit(failure, spec.root) from None
