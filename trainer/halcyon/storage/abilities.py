"""What a store can do, found out by doing it: a promise of a protocol's name is not believed.

A root must tell two writers apart: that is the fence, and the commit. So of several that write at the same time under one condition exactly
one may win. At the same time, because a comparison by a read before the write would pass any test that tries one after the other. And what
was written must be there for the next reader and in the next listing, for that is how parts are found before a commit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from halcyon.errors import RootUnusable
from halcyon.storage.failures import StoreFailure, as_exit
from halcyon.storage.store import Store

PROBE_KEY = "PROBE"
_TRIES = 20
_CONTENDERS = 6


@dataclass(frozen=True)
class Ability:
    """One thing that a root must be able to do."""

    name: str
    problem: str | None
    """What it did instead, and the fix; None if it can."""
    seconds: float
    """How long it took to find out."""


class Contended(Exception):
    """Others were probing all the time."""


def overwrite_problem(store: Store, nonce: str) -> str | None:
    """What is wrong with conditional overwrites of a root; None if one of several wins.

    The key stays: were it deleted, "must not exist" could come true again under the feet of another process that is probing.

    Raises:
        Contended: Other processes were probing all the time.
        StoreFailure: The store did not answer.
    """
    for attempt in range(_TRIES):
        before = store.read(PROBE_KEY)
        # A generation is a hash of what is there, in S3. Were the same content written in two tries, a write could leave the generation as
        # it found it, and a second one would rightly win.
        *contents, latest = (_content(nonce, attempt, number) for number in range(_CONTENDERS + 1))
        winners = store.contend(PROBE_KEY, contents, before.generation)
        late = store.swap(PROBE_KEY, latest, before.generation)
        if winners > 1 or late is not None:
            return (
                f"does not honour conditional writes ({winners + (late is not None)} of {_CONTENDERS + 1} went through where one may), so "
                "two writers could overwrite each other there; choose a store that supports If-Match and If-None-Match"
            )
        if winners == 1:
            return None
        # None won, or none that heard of it: another process is probing, or an answer was lost on the way.
    raise Contended


def create_problem(store: Store, nonce: str) -> str | None:
    """What is wrong with creating a key that must not exist; None if one of several wins and the key cannot be created again."""
    key = f"{_folder(nonce)}created"
    absent = store.read(key)
    *contents, latest = (_content(nonce, 0, number) for number in range(_CONTENDERS + 1))
    winners = store.contend(key, contents, absent.generation)
    late = store.swap(key, latest, absent.generation)
    if winners == 0 and store.read(key).data in contents:
        winners = 1  # the answer to the one that won was lost on the way, and its second try came too late
    store.delete(key)
    if winners == 1 and late is None:
        return None
    return (
        f"does not honour conditional creation ({winners + (late is not None)} of {_CONTENDERS + 1} created the same key, where one may), "
        "so a commit could be written over; choose a store that supports If-None-Match"
    )


def listing_problem(store: Store, nonce: str) -> str | None:
    """What is wrong with listings; None if what was just written or deleted is seen at once."""
    key = f"{_folder(nonce)}listed"
    store.write(key, _content(nonce, 0, 0))
    seen = key in store.list(_folder(nonce))
    store.delete(key)
    gone = key not in store.list(_folder(nonce))
    if seen and gone:
        return None
    return f"lists late (a key just {'deleted is still' if seen else 'written is not'} listed); choose a store with consistent listings"


def reading_problem(store: Store, nonce: str) -> str | None:
    """What is wrong with reads; None if a value and a part of it come back as they were written."""
    key = f"{_folder(nonce)}read"
    content = _content(nonce, 0, 0) * 64
    store.write(key, content)
    whole, end = store.read(key).data, store.tail(key, len(content) - 16)
    store.delete(key)
    if whole == content and end == content[-16:]:
        return None
    return "does not give back what was written to it; choose another store"


_CHECKS: tuple[tuple[str, Callable[[Store, str], str | None]], ...] = (
    ("read what was written", reading_problem),
    ("list at once", listing_problem),
    ("conditional creation", create_problem),
    ("conditional overwrite", overwrite_problem),
)


def examine(store: Store, nonce: str, clock: Callable[[], float]) -> Iterator[Ability]:
    """Try all that a root must be able to do, one after the other. Leaves nothing there but the key `PROBE_KEY`.

    Args:
        store: The root.
        nonce: A fresh random word.
        clock: Seconds, monotonic.

    Raises:
        StoreFailure: The store did not answer, or refuses access.
    """
    for name, check in _CHECKS:
        begin = clock()
        try:
            problem = check(store, nonce)
        except Contended:
            problem = "is being tried by other processes without end; see that one run alone uses it"
        yield Ability(name, problem, clock() - begin)
    store.delete_prefix(_folder(nonce))


def demand(store: Store, nonce: str, *, fresh: bool) -> None:
    """See, before a run takes a root, that it can be written and fenced.

    Args:
        store: The root.
        nonce: A fresh random word.
        fresh: The root was never used. A later start tries the fence alone, for a restart should be fast.

    Raises:
        RootUnusable: It cannot; the sentence names the ability that is missing.
        Contended: Other processes were probing all the time.
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


def _folder(nonce: str) -> str:
    return f"probe-{nonce}/"


def _content(nonce: str, attempt: int, number: int) -> bytes:
    return json.dumps({"probe": nonce, "attempt": attempt, "write": number}).encode()
