"""Schedules of Levanter, and the same schedules here. ``levanter_rates.json`` has the rates that Levanter's own code
computes.

Levanter's settings are those of its `OptimizerConfig`, at commit 9263f81. Its peak rate is `PEAK`, the run has `STEPS`
steps.
"""

from __future__ import annotations

from typing import Any

PEAK = 0.5
STEPS = 60

SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cosine": ({"warmup": 0.1}, {"warmup": 0.1}),
    "cosine in steps": ({"warmup": 7, "decay": 20, "min_lr_ratio": 0.2}, {"warmup": 7, "decay": 20, "minRatio": 0.2}),
    "cosine, exponent": (
        {"lr_schedule": {"type": "cosine", "exponent": 2.0}, "warmup": 0.2},
        {"shape": "cosine", "exponent": 2.0, "warmup": 0.2},
    ),
    "constant": ({"lr_schedule": "constant", "warmup": 5}, {"shape": "constant", "warmup": 5}),
    "linear, no warm-up": (
        {"lr_schedule": "linear", "warmup": 0, "min_lr_ratio": 0.0},
        {"shape": "linear", "minRatio": 0.0},
    ),
    "warm-up, stable, decay": (
        {"lr_schedule": "linear", "warmup": 0.05, "decay": 0.25, "min_lr_ratio": 0.0},
        {"shape": "linear", "warmup": 0.05, "decay": 0.25, "minRatio": 0.0},
    ),
    "inverse square root": ({"lr_schedule": "inv_sqrt", "warmup": 10}, {"shape": "inverseSquareRoot", "warmup": 10}),
    "inverse square root, timescale": (
        {"lr_schedule": {"type": "inv_sqrt", "timescale": 12.0}, "warmup": 6},
        {"shape": "inverseSquareRoot", "scale": 12.0, "warmup": 6},
    ),
    "inverse": ({"lr_schedule": "inv", "warmup": 0.1}, {"shape": "inverse", "warmup": 0.1}),
    "power": (
        {"lr_schedule": {"type": "power", "batch_size": 8, "seq_length": 32, "a": 0.3, "b": -0.4}, "warmup": 4},
        {"shape": "power", "scale": 0.3, "exponent": -0.4, "warmup": 4},
    ),
    "cycles, number": ({"cycles": 4, "warmup": 3}, {"cycles": 4, "warmup": 3}),
    "cycles, uneven number": ({"cycles": 7, "warmup": 0.1}, {"cycles": 7, "warmup": 0.1}),
    "cycles, ends": ({"cycles": [10, 25], "warmup": 2}, {"cycleEnds": [10, 25], "warmup": 2}),
    "cycles, lengths": (
        {"cycle_length": [20, 30], "warmup": 2, "rewarmup": 4, "lr_schedule": "linear"},
        {"cycleLengths": [20, 30], "warmup": 2, "rewarmup": 4, "shape": "linear"},
    ),
    "cycles, one length": ({"cycle_length": 15, "warmup": 2}, {"cycles": 4, "warmup": 2}),
    "WSD-S": (
        {"cycles": [20, 40], "decay": 0.2, "warmup": 4, "rewarmup": 0, "lr_schedule": "inv"},
        {"cycleEnds": [20, 40], "decay": 0.2, "warmup": 4, "shape": "inverse"},
    ),
    "WSD-S with re-warm-up": (
        {"cycles": 3, "decay": 5, "warmup": 4, "rewarmup": 0.1, "lr_schedule": "linear"},
        {"cycles": 3, "decay": 5, "warmup": 4, "rewarmup": 0.1, "shape": "linear"},
    ),
}
"""For each name: Levanter's settings, and ``spec.optimizer.schedule.phases``."""
