"""Arrays that grow with the corpus, such as the ends of its documents: large ones are on disk.

Eight bytes per document are 2.3 GB for a terabyte of text in documents of a few kilobytes. The system can drop pages of
a mapped file at any time, but not a process's own memory.
"""

from __future__ import annotations

import math
import tempfile

import numpy as np

LARGE_BYTES = 64 * 2**20


def scratch_array(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """An uninitialized array.

    A large one is in a file in the folder for temporary files; the file is deleted with the array.
    """
    if math.prod(shape) * np.dtype(dtype).itemsize <= LARGE_BYTES:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as stream:
        return np.asarray(np.memmap(stream, dtype, mode="w+", shape=shape))
