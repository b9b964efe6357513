"""Compiled programs that all runs of a test session share, as a run and its restarts share them (see `halcyon.training.compilation`).

The programs that a run puts into its checkpoint root are kept and copied to the next runs before they start. The key of a program depends
on everything that it was compiled from, so a run loads only its own programs. `tests/trainer/training/test_compilation.py` tests
compilation itself and shares no programs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halcyon.machine.jax_versions import fusion_emitters

FOLDER = "compilation"
QUICK_FLAGS = " ".join(
    f"--{name}={str(value).lower()}" for name, value in {"xla_backend_optimization_level": 0, **fusion_emitters()}.items()
)
"""XLA flags for tests. Tests compare numbers and not speed, and unoptimised code compiles several times faster."""


def keep_programs(environ: Mapping[str, str]) -> None:
    """Keep the programs that this process compiles for the next session: most of the time of the fast tests is compilation.

    There is one folder for each kind of processor, because code for another processor may not run. As in the trainer, a program is kept
    only if it has no collectives in a loop.
    """
    import jax
    from jax._src import compilation_cache

    from halcyon.training.compilation import keeps_collectives_in_order, processor

    cache = Path(environ.get("HALCYON_CACHE") or Path.home() / ".cache" / "halcyon")
    jax.config.update("jax_compilation_cache_dir", str(cache / "test-programs" / hashlib.sha256(processor().encode()).hexdigest()[:16]))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    jax.config.update("jax_compilation_cache_max_size", 256 * 2**20)
    put = compilation_cache.put_executable_and_time

    def put_if_in_order(key: str, name: str, executable: Any, *more: Any) -> None:
        if all(keeps_collectives_in_order(module.to_string()) for module in executable.hlo_modules()):
            put(key, name, executable, *more)

    compilation_cache.put_executable_and_time = put_if_in_order


class Programs:
    """The programs of all runs of a session: files ``PROGRAM/ENTRY.SHA256``, as in a checkpoint root."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def copy_from(self, root: Path) -> None:
        """Copy the programs from the root of a run."""
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

    def copy_into(self, root: Path) -> None:
        """Copy the programs into a root: for runs of several processes, each of which fetches the entries of its own program."""
        for path in self._folder.glob("*/*-cache.*"):
            _copy(path, root / FOLDER / path.parent.name / path.name)

    def lend_here(self, directory: Path) -> None:
        """Copy the programs into JAX's own cache directory: for runs of one process, which find them there by key."""
        for path in self._folder.glob("*/*-cache.*"):
            _copy(path, directory / path.name.rpartition(".")[0])


def _copy(path: Path, to: Path) -> None:
    if not to.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
