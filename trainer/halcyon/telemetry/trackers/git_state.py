"""The git state of a run document: the commit that it belongs to, so that the document of a series can be found again."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

_SECONDS = 5.0


def git_state(document: Path) -> dict[str, Any] | None:
    """The commit of the document's repository, and whether the document differs from it; None outside a repository, or without git."""
    commit = _git(document.parent, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return None
    changed = _git(document.parent, "status", "--porcelain", "--", document.name)
    return {"commit": commit, "changed": changed != ""}


def _git(folder: Path, *words: str) -> str | None:
    try:
        ended = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return ended.stdout.strip()
