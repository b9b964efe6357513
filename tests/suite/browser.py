"""The Chromium that tests of the chat page drive: that of the system.

If it is missing, the Debian package is installed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from halcyon_devcluster.debian import install_packages
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.lock import exclusive
from halcyon_devcluster.progress import ProgressView

PROGRAMS = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
"""Names of the program, in the order in which they are tried."""


def ensure_chromium(cache: Path, progress: ProgressView) -> Path:
    """Find Chromium, or install it.

    Args:
        cache: Folder of the log and of the lock, because several test processes may need it at once.
        progress: Shows the line about the installation.

    Raises:
        DevclusterError: It is missing and cannot be installed here.
    """
    if found := _find():
        return found
    if why_not := refusal(is_root=os.geteuid() == 0, has_apt=shutil.which("apt-get") is not None):
        raise DevclusterError(why_not)
    with exclusive(cache / ".chromium.lock", progress):
        if not _find():
            install_packages(["chromium"], cache / "apt.log", progress)
    if found := _find():
        return found
    raise DevclusterError("The package chromium has no program chromium: install Chromium or Google Chrome by hand.")


def refusal(*, is_root: bool, has_apt: bool) -> str | None:
    """The reason why Chromium cannot be installed, with the fix; None if it can. Pure."""
    if is_root and has_apt:
        return None
    return (
        "The tests of the chat page need Chromium: install Chromium or Google Chrome, or run as root on a Debian "
        "machine."
    )


def _find() -> Path | None:
    return next((Path(found) for name in PROGRAMS if (found := shutil.which(name))), None)
