"""Compiled programs that the runs of a test session share, as a run and its restarts do (see `halcyon.compilation`).

What a run has put into its checkpoint root is kept, and lent to the next runs before they start. A program is found by all that it was made
of, so a run takes only its own. `tests/trainer/test_compilation.py` is about compilation itself and shares nothing.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path

FOLDER = "compilation"
QUICK_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
"""XLA's flags for tests. They are about numbers, not about speed: code that is not optimised compiles several times faster."""


def kept_programs(environ: Mapping[str, str]) -> Path:
    """The folder of programs that test processes compile for themselves, one for each kind of processor: code made for another may not run."""
    cache = Path(environ.get("HALCYON_CACHE") or Path.home() / ".cache" / "halcyon")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        abilities = "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    except OSError:  # not Linux
        abilities = platform.processor()
    return cache / "test-programs" / hashlib.sha256(f"{platform.machine()}\n{abilities}".encode()).hexdigest()[:16]


class Programs:
    """Programs of all runs of a session: ``PROGRAM/ENTRY.SHA256``, as in a checkpoint root."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, root: Path) -> None:
        """Keep what a run has put into its root."""
        for path in (root / FOLDER).glob("*/*-cache.*"):
            kept = self._folder / path.parent.name / path.name
            if kept.exists():
                continue
            content = path.read_bytes()
            if path.name.endswith(f".{hashlib.sha256(content).hexdigest()}"):
                kept.parent.mkdir(parents=True, exist_ok=True)
                partial = kept.with_name(f".{os.getpid()}.{kept.name}")
                partial.write_bytes(content)
                partial.replace(kept)

    def lend(self, root: Path) -> None:
        """Put them into a root: for runs of several processes, each of which fetches those of its own program."""
        for path in self._folder.glob("*/*-cache.*"):
            _copy(path, root / FOLDER / path.parent.name / path.name)

    def lend_here(self, directory: Path) -> None:
        """Put them into JAX's own directory: for runs of one process, which look there by the program itself."""
        for path in self._folder.glob("*/*-cache.*"):
            _copy(path, directory / path.name.rpartition(".")[0])


def _copy(path: Path, to: Path) -> None:
    if not to.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
