"""How far computed values are from the true ones. Needs neither torch nor this project."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def errors(found: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The largest error of logits, loss and each gradient, as a part of the largest value.

    Args:
        found: ``logits``, ``loss``, and ``gradient NAME`` for each weight.
        truth: The same in float64, and ``segments``, which are 0 at positions that do not count.
    """
    counted = truth["segments"] > 0
    logits = truth["logits"][counted]
    measured = {
        "logits": float(np.abs(found["logits"][counted] - logits).max() / np.abs(logits).max()),
        "loss": float(abs(float(found["loss"]) - float(truth["loss"])) / abs(float(truth["loss"]))),
    }
    gradients = {name: array for name, array in truth.items() if name.startswith("gradient ")}
    largest = max(float(np.abs(array).max()) for array in gradients.values())
    for name, array in gradients.items():
        allowed = max(
            float(np.abs(array).max()), 0.01 * largest
        )  # a gradient that should be zero is rounding of the others
        measured[name] = float(np.abs(found[name] - array).max() / allowed)
    return measured
