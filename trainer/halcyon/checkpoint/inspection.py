"""Looking at a checkpoint root without taking it: for people, tools and tests. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass

from halcyon.checkpoint.collect import unnamed
from halcyon.checkpoint.failures import StoreFailure, as_exit
from halcyon.checkpoint.store import Store
from halcyon.checkpoint.verify import find_damage, prefixes, rebuild_head
from halcyon_api.checkpoint_documents import HEAD_KEY, STEPS_PREFIX, BadStep, CommittedStep, DamagedDocument, Head, decode_head
from halcyon_api.spec.checkpoint import CheckpointSpec


@dataclass(frozen=True)
class Listing:
    """What lies in a root."""

    head: Head | None
    """HEAD, rebuilt from the checkpoints if need be; None where the root holds none."""
    head_damage: str | None
    """Why HEAD itself could not be used."""
    committed: tuple[CommittedStep, ...]
    """Newest first."""
    bad: tuple[BadStep, ...]
    unfinished: tuple[str, ...]
    """Prefixes of checkpoints that are being written or deleted, or were given up."""


def list_checkpoints(spec: CheckpointSpec) -> Listing:
    """Tell what lies in a root.

    Raises:
        TrainerExit: The root cannot be read.
    """
    try:
        store = Store(spec)
        data = store.read(HEAD_KEY).data
        damage = None
        try:
            head = decode_head(data) if data is not None else None
        except DamagedDocument as error:
            head, damage = None, str(error)
        if head is None:
            head = rebuild_head(store)
            damage = damage or ("HEAD is missing" if head else None)
        found = prefixes(store.list(STEPS_PREFIX) + store.folders(STEPS_PREFIX))
    except StoreFailure as failure:
        raise as_exit(failure, spec.root) from None
    if head is None:
        return Listing(None, damage, (), (), found)
    return Listing(head, damage, head.committed, head.bad, (*head.deleting, *unnamed(found, head)))


def verify_checkpoint(spec: CheckpointSpec, entry: CommittedStep) -> tuple[str, ...]:
    """Read a whole checkpoint and check every byte.

    Returns:
        What is wrong with it, one sentence each; empty if it is sound.

    Raises:
        TrainerExit: The root cannot be read.
    """
    try:
        return find_damage(Store(spec), entry)
    except StoreFailure as failure:
        raise as_exit(failure, spec.root) from None
