"""Deletes prefixes of a root that are no longer needed and can never be committed.

Only three kinds of prefixes are deleted:

* Prefixes in ``HEAD.deleting``; a commit puts them there. The COMMIT mark is deleted first, so a half-deleted
  checkpoint never counts as committed, not even when HEAD is lost; then the data; then the entry in HEAD. If the
  process is killed in between, the next writer continues.
* Prefixes of this process's own failed saves.
* Orphans: prefixes that HEAD does not name, that do not have our own nonce, and that were listed *before* HEAD was read
  and still named us. Such a prefix was written by an older epoch, or by an older process of the same epoch: a newer
  writer writes only after it has changed HEAD, so it had not begun at the time of the listing. A commit needs a
  compare-and-swap from a HEAD that names the writer, and HEAD names us, so an orphan can never be committed. Prefixes
  with our own nonce are excluded, because all processes of the run use it: another process may already write its part
  of the next checkpoint while this process still deletes.

A checkpoint in ``HEAD.bad`` keeps its files, so that users can inspect it. Keys that are not below a checkpoint prefix
are not touched.

A root may hold ten thousand checkpoints of thousands of files each, so prefixes are found without a listing of all keys
(`unlisted_prefixes`). In a file system only the names of the folders are listed. In an object store only the keys
between the known prefixes are listed: one request for each gap, and no response has a file of a known checkpoint.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from halcyon.checkpoint.head import HeadKeeper, without_deleted
from halcyon.checkpoint.parts import in_parallel
from halcyon.checkpoint.verify import prefixes
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import (
    COMMIT_KEY,
    HEAD_KEY,
    STEPS_PREFIX,
    BadStep,
    CommittedStep,
    DamagedDocument,
    Head,
    canonical_json,
    decode_head,
)

FIRST = STEPS_PREFIX
LAST = f"{STEPS_PREFIX[:-1]}0"
"""A key that sorts after all prefixes: ``0`` is the character after the slash."""


def unlisted_prefixes(
    store: Store, entries: Iterable[BadStep | CommittedStep], first: str = FIRST, last: str = LAST
) -> tuple[str, ...]:
    """The unknown prefixes in a root, or in a range of its keys.

    Args:
        store: The root.
        entries: Checkpoints to leave out.
        first: First key of the range.
        last: End of the range, exclusive.

    Raises:
        StoreFailure: The store did not answer.
    """
    named = {entry.path for entry in entries if first <= entry.path < last}
    if store.folder is not None:
        listed = prefixes(store.folders(STEPS_PREFIX))
        return tuple(prefix for prefix in listed if prefix not in named and first <= prefix < last)
    known = sorted(named)
    begins = [first, *(f"{prefix[:-1]}0" for prefix in known)]
    return prefixes(store.list_between(list(zip(begins, [*known, last], strict=True))))


def delete_checkpoint(store: Store, prefix: str) -> None:
    """Delete everything below a prefix, the COMMIT mark first."""
    store.delete(f"{prefix}{COMMIT_KEY}")
    store.delete_prefix(prefix)


def mark_left(store: Store, head: Head) -> None:
    """Make the COMMIT marks of the checkpoints that have left HEAD say so, so that no rebuild of HEAD lists them as
    committed: delete those of prefixes in ``HEAD.deleting``, and replace those of ``HEAD.bad`` by the entry.

    What has left HEAD never returns to it, so a process that has lost the root since then does no harm.
    """

    def replace(bad: BadStep) -> None:
        key, mark = f"{bad.path}{COMMIT_KEY}", canonical_json(bad.document())
        if store.read(key).data not in (None, mark):
            store.write(key, mark)

    in_parallel([lambda path=path: store.delete(f"{path}{COMMIT_KEY}") for path in head.deleting])
    in_parallel([lambda bad=bad: replace(bad) for bad in head.bad])


def finish_deletions(store: Store, keeper: HeadKeeper) -> None:
    """Delete the prefixes in ``HEAD.deleting``, then remove them from HEAD."""
    paths = keeper.head.deleting
    for path in paths:
        delete_checkpoint(store, path)
    keeper.update(lambda head: without_deleted(head, paths))


def unnamed(listed: Iterable[str], head: Head) -> tuple[str, ...]:
    """The listed prefixes that HEAD does not name."""
    named = head.named
    return tuple(prefix for prefix in listed if prefix not in named)


def orphans(listed: Iterable[str], head: Head) -> tuple[str, ...]:
    """The listed prefixes that HEAD does not name and that do not have its writer's nonce."""
    return tuple(prefix for prefix in unnamed(listed, head) if not (head.writer and f".{head.writer}-" in prefix))


def delete_orphans(store: Store, keeper: HeadKeeper) -> None:
    """Delete orphans.

    Args:
        store: The root.
        keeper: HEAD, in the process that has the root.
    """
    listed = unlisted_prefixes(store, (*keeper.head.committed, *keeper.head.bad))
    head = keeper.refresh()  # after the listing: see the module
    for prefix in orphans(listed, head):
        delete_checkpoint(store, prefix)


def unlisted_commits(store: Store) -> tuple[str, ...]:
    """A sentence about each checkpoint with a COMMIT mark that HEAD does not name. A commit writes the mark before it
    changes HEAD, so a mark counts only if it still has no name in HEAD a second later.

    Raises:
        StoreFailure: The store did not answer.
    """
    found: set[str] | None = None
    while True:
        try:
            head = decode_head(store.read(HEAD_KEY).data or b"")
        except DamagedDocument:
            return ()  # its damage is reported, and all marks count
        listed = unlisted_prefixes(store, (*head.committed, *head.bad))
        marked = {path for path in unnamed(listed, head) if store.read(f"{path}{COMMIT_KEY}").data is not None}
        if not marked or found is not None:
            return tuple(
                f"{path} is committed, and HEAD does not name it" for path in sorted(marked & (found or set()))
            )
        found = marked
        time.sleep(1.0)


@dataclass(frozen=True)
class Garbage:
    """A prefix that can never be committed."""

    path: str
    why: str


def garbage(store: Store) -> tuple[Garbage, ...]:
    """Prefixes that any process may delete from a root, also one that does not own the root: the first and the third
    kind (see the module).

    Checkpoints in ``HEAD.deleting`` are no longer candidates for a restore. Orphans can never be committed, for the
    same reason as in the module: the listing is older than the HEAD with which it is compared. Without HEAD nothing is
    garbage.

    Raises:
        DamagedDocument: HEAD cannot be read.
        StoreFailure: The store did not answer.
    """
    before = store.read(HEAD_KEY).data
    if before is None:
        return ()
    known = decode_head(before)
    listed = unlisted_prefixes(store, (*known.committed, *known.bad))
    data = store.read(HEAD_KEY).data  # after the listing
    if data is None:
        return ()
    head = decode_head(data)
    being_deleted = tuple(Garbage(path, "its deletion was begun") for path in head.deleting if path in listed)
    dead = tuple(Garbage(path, "never committed, and its writer has lost the root") for path in orphans(listed, head))
    return being_deleted + dead
