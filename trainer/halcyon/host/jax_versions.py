"""The differences between the versions of JAX that the trainer runs with: 0.10, the last for Python 3.11, and 0.11.2 and later."""

from __future__ import annotations

import functools
from importlib.metadata import version


@functools.cache
def jax_version() -> tuple[int, int]:
    """The first two numbers of the version of JAX."""
    major, minor = (int(part) for part in version("jax").split(".")[:2])
    return major, minor


def fusion_emitters() -> dict[str, bool]:
    """XLA's options for a CPU without fusion emitters, which compile slowly. Newer versions do not have the option, and end on it."""
    return {} if jax_version() >= (0, 11) else {"xla_cpu_use_fusion_emitters": False}
