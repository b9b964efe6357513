"""The distribution that brings all packages of Halcyon: its name, which differs from theirs, and its version."""

from __future__ import annotations

import importlib.metadata

DISTRIBUTION = "halcyon-train"
"""What pip installs. The name `halcyon` belongs to somebody else there."""


def version() -> str:
    """The version that is installed; `unknown` where the packages lie there without having been installed."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def install(extra: str) -> str:
    """The command that installs an extra: from a package index, or before a first release from a checkout."""
    return f"pip install '{DISTRIBUTION}[{extra}]' (in a checkout: pip install '.[{extra}]')"
