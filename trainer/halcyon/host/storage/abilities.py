"""Tests what a store can do by trying it, because stores with the same protocol differ.

The fence and the commit need conditional writes: of several writes at the same time under one condition exactly one may
succeed. The writes run at the same time, because a store that only reads before it writes would pass a test with one
write after the other. A written value must also be visible to the next read and in the next listing, because process 0
finds the parts by a listing before it commits.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from halcyon.host.errors import RootUnusable
from halcyon.host.storage.failures import StoreFailure, as_exit
from halcyon.host.storage.store import Store

PROBE_KEY = "PROBE"
_TRIES = 20
_CONTENDERS = 6


@dataclass(frozen=True)
class Ability:
    """One ability that a root must have."""

    name: str
    problem: str | None
    """The wrong behaviour and the fix; None if the root has the ability."""
    seconds: float
    """Duration of the test."""


class ProbeContended(Exception):
    """Other processes probed the root during every try."""


def overwrite_problem(store: Store, nonce: str) -> str | None:
    """The problem with conditional overwrites of a root; None if exactly one of several writes succeeds.

    The key is not deleted: otherwise the condition "must not exist" could become true again while another process
    probes.

    Raises:
        ProbeContended: Other processes probed the root during every try.
        StoreFailure: The store did not answer.
    """
    for attempt in range(_TRIES):
        winners, late = _race(store, PROBE_KEY, nonce, attempt)
        if winners > 1 or late:
            return (
                f"does not support conditional writes ({winners + late} of {_CONTENDERS + 1} succeeded where one may), "
                "so two writers could overwrite each other there; choose a store that supports If-Match and "
                "If-None-Match"
            )
        if winners == 1:
            return None
        # No write succeeded, or its answer was lost: another process is probing, or the network failed.
    raise ProbeContended


def create_problem(store: Store, nonce: str) -> str | None:
    """The problem with creating a key that must not exist; None if exactly one of several writes creates it, and no
    later one does.
    """
    key = f"{_folder(nonce)}created"
    winners, late = _race(store, key, nonce, 0)
    if winners == 0 and not late and store.read(key).data is not None:
        winners = 1  # the answer to the successful write was lost, and its retry came too late
    store.delete(key)
    if winners == 1 and not late:
        return None
    return (
        f"does not support conditional creation ({winners + late} of {_CONTENDERS + 1} created the same "
        "key, where one may), so a commit could be overwritten; choose a store that supports If-None-Match"
    )


def listing_problem(store: Store, nonce: str) -> str | None:
    """The problem with listings; None if a listing shows a write and a deletion at once."""
    key = f"{_folder(nonce)}listed"
    store.write(key, _content(nonce, 0, 0))
    seen = key in store.list(_folder(nonce))
    store.delete(key)
    gone = key not in store.list(_folder(nonce))
    if seen and gone:
        return None
    return (
        f"lists late (a key just {'deleted is still' if seen else 'written is not'} listed); choose a store with "
        "consistent listings"
    )


def reading_problem(store: Store, nonce: str) -> str | None:
    """The problem with reads; None if a value and a range of it are read as they were written."""
    key = f"{_folder(nonce)}read"
    content = _content(nonce, 0, 0) * 64
    store.write(key, content)
    whole, end = store.read(key).data, store.tail(key, len(content) - 16)
    store.delete(key)
    if whole == content and end == content[-16:]:
        return None
    return "does not give back what was written to it; choose another store"


_CHECKS = (
    ("read what was written", reading_problem),
    ("list at once", listing_problem),
    ("conditional creation", create_problem),
    ("conditional overwrite", overwrite_problem),
)


def test_abilities(store: Store, nonce: str, clock: Callable[[], float]) -> Iterator[Ability]:
    """Test all abilities of a root, one after the other. Only the key `PROBE_KEY` remains.

    Args:
        store: The root.
        nonce: A fresh random word.
        clock: Seconds, monotonic.

    Raises:
        StoreFailure: The store did not answer, or denied access.
    """
    for name, check in _CHECKS:
        begin = clock()
        try:
            problem = check(store, nonce)
        except ProbeContended:
            problem = "is being tried by other processes again and again; make sure that only one run uses it"
        yield Ability(name, problem, clock() - begin)
    store.delete_prefix(_folder(nonce))


def require_abilities(store: Store, nonce: str, *, fresh: bool) -> None:
    """Check, before a run takes a root, that it can be written and fenced.

    Args:
        store: The root.
        nonce: A fresh random word.
        fresh: The root was never used. A later start tests only conditional overwrites, because a restart should be
            fast.

    Raises:
        RootUnusable: The root lacks an ability, which the message names, or it has no space left.
        ProbeContended: Other processes probed the root during every try.
        StoreFailure: The store did not answer.
    """
    try:
        for check in (listing_problem, create_problem, overwrite_problem) if fresh else (overwrite_problem,):
            if problem := check(store, nonce):
                raise RootUnusable(f"checkpoint root {store.root} {problem}")
        if fresh:
            store.delete_prefix(_folder(nonce))
    except StoreFailure as failure:
        if failure.code == "RESOURCE_EXHAUSTED":
            raise RootUnusable(str(as_exit(failure, store.root))) from None
        raise


def _race(store: Store, key: str, nonce: str, attempt: int) -> tuple[int, bool]:
    """How many of several writes at the same time succeed, of which one may, and whether one after them does."""
    before = store.read(key)
    # In S3 a generation is a hash of the content. If two tries wrote the same content, a write could leave the
    # generation unchanged, and a second write would then rightly succeed.
    *contents, latest = (_content(nonce, attempt, number) for number in range(_CONTENDERS + 1))
    winners = store.count_concurrent_swaps(key, contents, before.generation)
    return winners, store.swap(key, latest, before.generation) is not None


def _folder(nonce: str) -> str:
    return f"probe-{nonce}/"


def _content(nonce: str, attempt: int, number: int) -> bytes:
    return json.dumps({"probe": nonce, "attempt": attempt, "write": number}).encode()
