"""Which checkpoint prefixes lie in a root beside those that are known, without a look at everything else.

A root may hold ten thousand checkpoints of thousands of files each. In a folder, the names of the folders tell. An object store is asked
only for the keys between the known prefixes: few requests where few are known, and no answer names a file of a known checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable

from halcyon.checkpoint.verify import prefixes
from halcyon.storage.store import Store
from halcyon_api.checkpoint_documents import STEPS_PREFIX

FIRST = STEPS_PREFIX
LAST = f"{STEPS_PREFIX[:-1]}0"
"""What comes after all prefixes: a slash plus one."""


def unlisted_prefixes(store: Store, known: Iterable[str], first: str = FIRST, last: str = LAST) -> tuple[str, ...]:
    """The prefixes in a root, or in a part of it, that are not known.

    Args:
        store: The root.
        known: Prefixes that need not be looked for.
        first: Where to begin.
        last: Where to end: a key that does not belong to the part any more.

    Raises:
        StoreFailure: The store did not answer.
    """
    known = sorted(prefix for prefix in set(known) if first <= prefix < last)
    if store.folder is not None:
        named = set(known)
        return tuple(prefix for prefix in prefixes(store.folders(STEPS_PREFIX)) if prefix not in named and first <= prefix < last)
    begins = [first, *(f"{prefix[:-1]}0" for prefix in known)]
    return prefixes(store.list_between(list(zip(begins, [*known, last], strict=True))))
