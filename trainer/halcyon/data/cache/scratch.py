"""Arrays that grow with the corpus, such as where each of its documents ends: on a disk once they are large.

Eight bytes for each document are 2.3 GB for a terabyte of text in documents of a few kilobytes. Pages of a mapped file can be dropped by
the system at any time; memory of a process's own cannot.
"""

from __future__ import annotations

import math
import tempfile

import numpy as np

LARGE_BYTES = 64 * 2**20


def scratch_array(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """An array to be filled. A large one lies in a file in the folder for temporary files, which goes when the array does."""
    if math.prod(shape) * np.dtype(dtype).itemsize <= LARGE_BYTES:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as stream:
        return np.asarray(np.memmap(stream, dtype, mode="w+", shape=shape))
