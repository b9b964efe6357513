"""The package tokamax (openxla), which has the kernels for GPUs.

Its import takes seconds, so it is imported by the first program that needs a kernel. Its public functions do not have
the limits of keys that keep documents apart, so the modules of its operations are used, and pyproject.toml names one
version.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any


def is_there() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("tokamax") is not None


def operation(name: str) -> Any:
    """The module of an operation, such as ``attention.api``."""
    if "xprof" not in sys.modules and importlib.util.find_spec("xprof") is None:
        _leave_out_xprof()
    return importlib.import_module(f"tokamax._src.ops.{name}")


def _leave_out_xprof() -> None:
    """Put an empty module in the place of xprof: only the benchmarks of tokamax use it, and it brings 28 packages."""
    for name in ("xprof", "xprof.cli", "xprof.cli.tools"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["xprof.cli.tools"].get_kernel_stats_tool = None  # type: ignore[attr-defined]
