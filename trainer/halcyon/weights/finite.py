"""Finds NaN and infinite numbers in the pieces of tensors that an import or an export moves."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

_INFINITIES = {np.dtype(kind): int(np.array(np.inf, kind).view(np.int16)) for kind in (np.float16, jnp.bfloat16)}
"""The bits of infinity."""


def is_finite(values: np.ndarray) -> bool:
    """Whether no number is NaN or infinite, in an array of a floating-point type.

    NumPy tests the numbers of narrow types one by one. Their bits without the sign are in the order of the numbers,
    with infinity and NaN at the end, so the largest bits are compared with those of infinity: 2 to 4 times as fast.
    """
    infinity = _INFINITIES.get(values.dtype)
    if infinity is None or not values.size:
        return bool(np.isfinite(values).all())
    return bool((values.view(np.int16) & np.iinfo(np.int16).max).max() < infinity)
