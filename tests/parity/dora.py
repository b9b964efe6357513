"""The output of a linear map with DoRA and dropout, as peft computes it (``DoraLinearVariant``), by explicit masks."""

from __future__ import annotations

import numpy as np


def dora_with_dropout(
    x: np.ndarray,
    factors: np.ndarray,
    weight: np.ndarray,
    down: np.ndarray,
    up: np.ndarray,
    magnitude: np.ndarray,
    scale: float,
) -> np.ndarray:
    """The output [rows, outputs], in float64.

    Args:
        x: The input: [rows, inputs].
        factors: What dropout multiplies each number of the input with: 0, or 1 / (1 - share).
        weight: [inputs, outputs].
        down: A: [inputs, rank].
        up: B: [rank, outputs].
        magnitude: [outputs].
        scale: Factor of ``A B``.
    """
    x, factors, weight, down, up, magnitude = (
        each.astype(np.float64) for each in (x, factors, weight, down, up, magnitude)
    )
    dropped = x * factors
    factor = magnitude / np.linalg.norm(weight + scale * down @ up, axis=0)
    return x @ weight + (factor - 1) * (dropped @ weight) + factor * scale * (dropped @ down @ up)
