"""A profile of one step of the 1B Llama: the share of the device's time by kind of kernel, and the largest gap between
two kernels.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from tests.accelerator.measure import Options
from tests.accelerator.rows import Row
from tests.accelerator.training import LLAMA_1B, LLAMA_TINY, VOCABULARY, Training, spec_of

KINDS = {
    "attention": r"sdpa|fmha|flash|attention|mha",
    "matrix products": r"gemm|cutlass|nvjet|xmma|cublas|splitK|dot|matmul",
    "collectives": r"nccl|all-reduce|all-gather|reduce-scatter",
    "copies": r"memcpy|memset|copy|transpose",
    "scatters and gathers": r"scatter|gather|dynamic",
    "sorts": r"sort",
    "reductions": r"reduce",
    "other fusions": r"fusion|wrapped|loop|input|triton|broadcast|convert|select",
}
"""Kinds of kernels by a pattern of their names; the first that matches counts."""


def rows(options: Options) -> Iterator[Row]:
    """The shares of one step, then its ten longest kernels."""
    # Without graphs of CUDA, whose kernels a trace does not show one by one.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_command_buffer="
    model, vocabulary = options.pick((LLAMA_1B, VOCABULARY), (LLAMA_TINY, 512))
    batch, length = options.pick((4, 8192), (2, 64))
    training = Training(spec_of(model, batch=batch, length=length), vocabulary)
    state, _, _ = training.run(training.initial(), 3)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            training.run(state, 2)
        path = next(Path(folder).rglob("*.xplane.pb"))
        events = list(kernels(jax.profiler.ProfileData.from_file(str(path))))
    if not events:
        yield {"note": "the trace has no kernels of a device, as on the processor"}
        return
    # Two steps were traced: everything but the share of the first.
    first, last = min(start for start, _, _ in events), max(end for _, end, _ in events)
    middle = (first + last) / 2
    events = [event for event in events if event[0] >= middle]
    busy, gap, gap_before = covered(events)
    whole = max(end for _, end, _ in events) - min(start for start, _, _ in events)
    by_kind: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    by_name: dict[str, list[float]] = defaultdict(list)
    for start, end, name in events:
        kind = next((kind for kind, form in KINDS.items() if re.search(form, name, re.IGNORECASE)), "other")
        by_kind[kind] += end - start
        counts[kind] += 1
        by_name[name].append(end - start)
    total = sum(by_kind.values())
    for kind, nanoseconds in sorted(by_kind.items(), key=lambda item: -item[1]):
        yield {"kernels": kind, "calls": counts[kind], "ms": nanoseconds / 1e6, "share": nanoseconds / total}
    yield {
        "all ms": whole / 1e6,
        "busy": busy / whole,
        "kernels in all": len(events),
        "largest gap ms": gap / 1e6,
        "gap before": gap_before[:60],
    }
    for name, times in sorted(by_name.items(), key=lambda item: -sum(item[1]))[:12]:
        yield {"longest kernels": name[:80], "times": len(times), "in ms": sum(times) / 1e6}


def kernels(space: Any) -> Iterator[tuple[float, float, str]]:
    """Start, end and name of each kernel on the streams of the first GPU, in nanoseconds."""
    for plane in space.planes:
        if not plane.name.startswith("/device:GPU:0"):
            continue
        for line in plane.lines:
            if "Stream" in line.name:
                for event in line.events:
                    yield event.start_ns, event.start_ns + event.duration_ns, event.name


def covered(events: list[tuple[float, float, str]]) -> tuple[float, float, str]:
    """The time in which any kernel runs, the longest time in which none does, and the kernel after it."""
    busy, gap, name_after, until = 0.0, 0.0, "", None
    for start, end, name in sorted(events):
        if until is None or start > until:
            if until is not None and start - until > gap:
                gap, name_after = start - until, name
            busy += end - start
            until = end
        elif end > until:
            busy += end - until
            until = end
    return busy, gap, name_after
