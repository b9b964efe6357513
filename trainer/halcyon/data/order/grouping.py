"""Numbers grouped by what they have in common: an epoch, or a window."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def groups(keys: np.ndarray) -> Iterator[tuple[int, np.ndarray | slice]]:
    """Each different key, rising, and where it is in the flat array: one group is a slice, which copies nothing."""
    if not keys.size:
        return
    keys = keys.reshape(-1)
    if (keys == keys[0]).all():
        yield int(keys[0]), slice(None)
        return
    rising = np.argsort(keys, kind="stable")
    for places in np.split(rising, np.flatnonzero(np.diff(keys[rising])) + 1):
        yield int(keys[places[0]]), places
