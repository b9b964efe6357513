"""Groups numbers by a common key, such as an epoch or a window."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def groups(keys: np.ndarray) -> Iterator[tuple[int, np.ndarray | slice]]:
    """Yields each different key, rising, and its indices in the flat array.

    A single group is a slice, which avoids a copy.
    """
    if not keys.size:
        return
    keys = keys.reshape(-1)
    if (keys == keys[0]).all():
        yield int(keys[0]), slice(None)
        return
    rising = np.argsort(keys, kind="stable")
    for places in np.split(rising, np.flatnonzero(np.diff(keys[rising])) + 1):
        yield int(keys[places[0]]), places
