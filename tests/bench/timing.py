"""The shortest of several measurements, for benchmarks of single functions."""

from __future__ import annotations

import time
from collections.abc import Callable


def best_seconds(work: Callable[[], object], repeats: int = 7) -> float:
    """The shortest of several measurements, in seconds: the cost on an idle machine."""
    durations: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        durations.append(time.perf_counter() - began)
    return min(durations)
