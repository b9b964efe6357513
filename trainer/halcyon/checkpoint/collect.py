"""Deleting what is not needed any more, and only what is provably ours and dead.

Three kinds of prefixes may go, and nothing else ever:

* those in ``HEAD.deleting``, which a commit put there. The COMMIT mark goes first, so a half-deleted checkpoint is never mistaken for
  one, not even when HEAD is lost; then the data; then HEAD forgets the prefix. Killed anywhere in between, the next writer takes it up.
* this process's own failed ones.
* those that HEAD does not name at all, that do not bear our own nonce, and that were listed *before* HEAD was read and found to be still
  ours. Their writer had an older epoch or an older process of the same: a newer one writes only after it has changed HEAD, so it had
  not begun when the listing was made. To be committed a prefix needs a compare-and-swap from a HEAD that names its writer, and HEAD names
  us, so none of them ever can be. Our own nonce is on the prefixes of all our processes, and another of them may already be writing its
  part of the next checkpoint while this one is still tidying up.

A checkpoint in ``HEAD.bad`` keeps its files, so that people can look into it. Keys that are no checkpoint prefix are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from halcyon.checkpoint.head import HeadKeeper, without_deleted
from halcyon.checkpoint.unlisted import unlisted_prefixes
from halcyon.storage.store import Store
from halcyon_api.checkpoint_documents import COMMIT_KEY, HEAD_KEY, Head, decode_head


def delete_checkpoint(store: Store, prefix: str) -> None:
    """Delete everything below a prefix, the mark first."""
    store.delete(f"{prefix}{COMMIT_KEY}")
    store.delete_prefix(prefix)


def finish_deletions(store: Store, keeper: HeadKeeper) -> None:
    """Delete what HEAD says is being deleted, then let HEAD forget it."""
    paths = keeper.head.deleting
    for path in paths:
        delete_checkpoint(store, path)
    keeper.update(lambda head: without_deleted(head, paths))


def unnamed(listed: Iterable[str], head: Head) -> tuple[str, ...]:
    """Of listed prefixes, those that HEAD does not name."""
    named = {one.path for one in (*head.committed, *head.bad)} | set(head.deleting)
    return tuple(prefix for prefix in listed if prefix not in named)


def orphans(listed: Iterable[str], head: Head) -> tuple[str, ...]:
    """Of listed prefixes, those that HEAD does not name and that do not bear its writer's nonce."""
    return tuple(prefix for prefix in unnamed(listed, head) if not (head.writer and f".{head.writer}-" in prefix))


def delete_orphans(store: Store, keeper: HeadKeeper, *, spare: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Delete prefixes that can never be committed.

    Args:
        store: The root.
        keeper: HEAD, of the process that has the root.
        spare: Prefixes of this process that are still in use.
    """
    listed = unlisted_prefixes(store, (one.path for one in (*keeper.head.committed, *keeper.head.bad)))
    head = keeper.refresh()  # after the listing: see above
    dead = tuple(prefix for prefix in orphans(listed, head) if prefix not in spare)
    for prefix in dead:
        delete_checkpoint(store, prefix)
    return dead


@dataclass(frozen=True)
class Garbage:
    """A prefix that holds no checkpoint and never will."""

    path: str
    why: str


def garbage(store: Store) -> tuple[Garbage, ...]:
    """What any process may delete from a root, whichever process owns it: the first and the third kind above.

    Checkpoints that HEAD is deleting are candidates no longer. What HEAD does not name and does not bear its writer's nonce can never be
    committed, by the same argument as above: the listing is older than the HEAD that it is held against. Where HEAD is missing or cannot be
    read nothing is garbage.

    Raises:
        DamagedDocument: HEAD cannot be read.
        StoreFailure: The store did not answer.
    """
    before = store.read(HEAD_KEY).data
    if before is None:
        return ()
    known = decode_head(before)
    listed = unlisted_prefixes(store, (one.path for one in (*known.committed, *known.bad)))
    data = store.read(HEAD_KEY).data  # after the listing
    if data is None:
        return ()
    head = known if data == before else decode_head(data)
    being_deleted = tuple(Garbage(path, "its deletion was begun") for path in head.deleting if path in listed)
    dead = tuple(Garbage(path, "never committed, and its writer has lost the root") for path in orphans(listed, head))
    return being_deleted + dead
