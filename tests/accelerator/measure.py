"""Times of work on a device, the facts of the machine, and what all stages know of a run of the script."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halcyon_api.hardware import TABLE
from tests.accelerator.rows import Row

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Options:
    """What a stage gets.

    Attributes:
        dry: Tiny sizes, on any device: shows that the stage runs.
        seconds: Time that is left for the stage.
        peer: A checkout of karpathy/nanochat. None: its rows are left out.
        torch: An interpreter with torch. None: its columns are left out.
    """

    dry: bool
    seconds: float
    peer: Path | None
    torch: Path | None

    def pick(self, full: Any, dry: Any) -> Any:
        """One of two sizes."""
        return dry if self.dry else full


Stage = Callable[[Options], Iterator[Row]]
"""Yields rows as soon as they are known."""


def ready(result: Any) -> Any:
    """Wait for the arrays of a result."""
    import jax

    return jax.block_until_ready(result)


def milliseconds(work: Callable[[], Any], *, seconds: float = 0.5, most: int = 30) -> float:
    """The median time of a call, over calls for about `seconds`, after two calls that do not count.

    Short calls are dispatched ten at a time, so the time to start one hides behind the one before.
    """
    ready(work())
    began = time.perf_counter()
    ready(work())
    one = time.perf_counter() - began
    together = 10 if one < 0.01 else 1
    times: list[float] = []
    until = time.perf_counter() + seconds
    while not times or (time.perf_counter() < until and len(times) < most):
        began = time.perf_counter()
        for _ in range(together - 1):
            work()
        ready(work())
        times.append((time.perf_counter() - began) / together)
    return statistics.median(times) * 1e3


def error_of(found: Any, right: Any) -> float:
    """The norm of the difference, relative to the norm of the right result, in float32.

    Infinite if a number is not finite.
    """
    import jax.numpy as jnp

    found, right = (jnp.asarray(x, jnp.float32).ravel() for x in (found, right))
    if not bool(jnp.all(jnp.isfinite(found))):
        return float("inf")
    return float(jnp.linalg.norm(found - right) / jnp.maximum(jnp.linalg.norm(right), 1e-30))


def brief(error: BaseException) -> str:
    """The first words of an error, for a row."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def hardware_type() -> str | None:
    """The row of the hardware table that the first device belongs to; None: not known."""
    import jax

    kind = jax.devices()[0].device_kind.lower()
    names = sorted((name for name, row in TABLE.items() if row.peak_flops_per_second), key=len, reverse=True)
    return next((name for name in names if name in kind.replace(" ", "-")), None)


def peak_flops() -> float | None:
    """The peak of the first device in dense bfloat16, in FLOP/s, as the hardware table has it; None: not known."""
    name = hardware_type()
    return None if name is None else TABLE[name].peak_flops_per_second


def machine() -> Row:
    """The row that names the card, the driver, the packages and the commit."""
    import jax
    import jaxlib

    device = jax.devices()[0]
    return {
        "stage": "machine",
        "card": device.device_kind,
        "driver": _output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "none",
        "JAX": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "platform": getattr(device.client, "platform_version", "").replace("\n", " ").strip(),
        "cuDNN": _cudnn(),
        "Python": sys.version.split()[0],
        "commit": os.environ.get("HALCYON_COMMIT")
        or _output_of("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
        or "not known",
        "date": time.strftime("%Y-%m-%d"),
    }


def _output_of(*command: str) -> str:
    try:
        return (
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
            .stdout.strip()
            .splitlines()[0]
        )
    except (OSError, subprocess.SubprocessError, IndexError):
        return ""


def _cudnn() -> str:
    try:
        from jax._src.lib import cuda_versions

        number = cuda_versions.cudnn_get_version()
    except (ImportError, AttributeError, RuntimeError):
        return "none"
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


def options_of(arguments: argparse.Namespace) -> Options:
    """The options of a stage from its command line."""
    return Options(arguments.dry_run, arguments.seconds, arguments.peer, arguments.torch)
