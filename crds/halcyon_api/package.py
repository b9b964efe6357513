"""Name and version of the distribution that contains all packages of Halcyon. Its name differs from theirs."""

from __future__ import annotations

import importlib.metadata

DISTRIBUTION = "halcyon-train"
"""Name on the package index, where `halcyon` belongs to another project."""


def version() -> str:
    """The installed version; `unknown` if the packages are importable but not installed."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def install(extra: str) -> str:
    """The command that installs an extra, from a package index or from a checkout."""
    return f"pip install '{DISTRIBUTION}[{extra}]' (in a checkout: pip install '.[{extra}]')"


def missing(module: str) -> str:
    """The sentence about a package of the trainer that is not installed."""
    return (
        f"the package {module} is not installed; this needs Halcyon's trainer: Python 3.12 or later and "
        f"{install('trainer')}"
    )
