"""Finds checkpoint prefixes in a root that are not known, without a listing of all keys.

A root may hold ten thousand checkpoints of thousands of files each. In a file system only the names of the folders are
listed. In an object store only the keys between the known prefixes are listed: one request for each gap, and no
response has a file of a known checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable

from halcyon.checkpoint.verify import prefixes
from halcyon.storage.store import Store
from halcyon_api.checkpoint_documents import STEPS_PREFIX

FIRST = STEPS_PREFIX
LAST = f"{STEPS_PREFIX[:-1]}0"
"""A key that sorts after all prefixes: ``0`` is the character after the slash."""


def unlisted_prefixes(store: Store, known: Iterable[str], first: str = FIRST, last: str = LAST) -> tuple[str, ...]:
    """The unknown prefixes in a root, or in a range of its keys.

    Args:
        store: The root.
        known: Prefixes to leave out.
        first: First key of the range.
        last: End of the range, exclusive.

    Raises:
        StoreFailure: The store did not answer.
    """
    known = sorted(prefix for prefix in set(known) if first <= prefix < last)
    if store.folder is not None:
        named = set(known)
        return tuple(
            prefix for prefix in prefixes(store.folders(STEPS_PREFIX)) if prefix not in named and first <= prefix < last
        )
    begins = [first, *(f"{prefix[:-1]}0" for prefix in known)]
    return prefixes(store.list_between(list(zip(begins, [*known, last], strict=True))))
