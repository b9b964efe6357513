"""Compiled programs that the runs of tests share, as a run and its restarts share them (see
`halcyon.step.compilation`).

The programs that a run puts into its checkpoint root are kept, also for later sessions, and copied to the next runs of
the same document before they start. The key of a program depends on everything that it was compiled from, so a run
loads only its own programs. `tests/trainer/step/test_compilation.py` tests compilation itself and shares no programs.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from halcyon_api.training_run import TrainingRunSpec

FOLDER = "compilation"
QUICK_FLAGS = "--xla_backend_optimization_level=0"
"""XLA flags for tests. Tests compare numbers and not speed, and unoptimised code compiles several times faster."""

MOST_MAPS = 15_000
"""Memory maps of programs, after which they are freed."""


def kept_folder(environ: Mapping[str, str]) -> Path:
    """The folder of the programs that later sessions use again."""
    return Path(environ.get("HALCYON_CACHE") or Path.home() / ".cache" / "halcyon") / "test-programs"


def keep_programs(environ: Mapping[str, str]) -> None:
    """Keep the programs that this process compiles for the next session: most of the time of the fast tests is
    compilation.

    There is one folder for each kind of processor, because code for another processor may not run. As in the trainer, a
    program is kept only if it has no collectives in a loop. Small programs are kept too: there are thousands of them.
    """
    import jax
    from jax._src import compilation_cache, lru_cache

    from halcyon.step.compilation import keeps_collectives_in_order, processor

    folder = kept_folder(environ) / f"tests-{hashlib.sha256(processor().encode()).hexdigest()[:16]}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    # With a limit, JAX reads the sizes of all programs under a lock whenever it adds one. `forget` deletes old programs
    # instead.
    jax.config.update("jax_compilation_cache_max_size", -1)
    put = compilation_cache.put_executable_and_time

    def put_if_in_order(key: str, name: str, executable: Any, *more: Any) -> None:
        if all(keeps_collectives_in_order(module.to_string()) for module in executable.hlo_modules()):
            put(key, name, executable, *more)

    def put_whole(cache: lru_cache.LRUCache, key: str, value: bytes) -> None:
        """Several processes add programs. Without a lock, JAX itself would write a program in place."""
        path = cache.path / f"{key}-cache"
        if not path.exists():
            partial = path.with_name(f".{os.getpid()}.{path.name}")
            partial.write_bytes(value)
            partial.replace(path)

    compilation_cache.put_executable_and_time = put_if_in_order
    lru_cache.LRUCache.put = put_whole


class MemoryMaps:
    """Frees the compiled programs of a process before it has too many memory maps.

    Each program has three maps, and Linux gives a process 65,530. A process of many tests would end there, by a
    segmentation fault.
    """

    def __init__(self) -> None:
        self._after_freeing = 0

    def free_if_many(self) -> None:
        """Free the programs that no test holds, if there are many more maps than after the last time."""
        import jax

        if self._count() - self._after_freeing > MOST_MAPS:
            jax.clear_caches()
            gc.collect()
            self._after_freeing = self._count()

    def _count(self) -> int:
        maps = Path("/proc/self/maps")
        return maps.read_bytes().count(b"\n") if maps.exists() else 0


def forget(folder: Path, made_before: float) -> None:
    """Delete the programs that were kept before this time, in seconds since 1970: most are of earlier code."""
    for path in folder.rglob("*-cache*"):
        with contextlib.suppress(FileNotFoundError):  # another session deletes it too
            if path.stat().st_mtime < made_before:
                path.unlink()


class Programs:
    """The programs of runs, by document: files ``DOCUMENT/PROGRAM/ENTRY.SHA256``, the last two parts as in a checkpoint
    root.

    Several sessions and workers may use the folder at the same time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def copy_from(self, root: Path, document: str) -> None:
        """Keep the programs in the root of a run of this document."""
        for path in (root / FOLDER).glob("*/*-cache.*"):
            kept = self._folder / document / path.parent.name / path.name
            if kept.exists():
                continue
            content = path.read_bytes()
            if path.name.endswith(f".{hashlib.sha256(content).hexdigest()}"):
                kept.parent.mkdir(parents=True, exist_ok=True)
                partial = kept.with_name(f".{os.getpid()}.{kept.name}")
                partial.write_bytes(content)
                partial.replace(kept)

    def copy_into(self, root: Path, document: str) -> None:
        """Copy the programs of a document into a root: for runs of several processes, each of which fetches the entries
        of its program.
        """
        for path in self._kept(document):
            _copy(path, root / FOLDER / path.parent.name / path.name)

    def lend_here(self, directory: Path, document: str) -> None:
        """Copy the programs of a document into JAX's own cache directory: for runs of one process, which find them
        there by key.
        """
        for path in self._kept(document):
            _copy(path, directory / path.name.rpartition(".")[0])

    def _kept(self, document: str) -> list[Path]:
        return list((self._folder / document).glob("*/*-cache.*"))


def document_key(spec: TrainingRunSpec, processes: int) -> str:
    """A hash of what the programs of a run depend on, in its document and on this machine, and of the number of its
    processes.
    """
    from halcyon.step.compilation import processor

    document = spec.document()
    sections = {
        name: document.get(name)
        for name in ("accelerator", "mesh", "model", "tokenizer", "optimizer", "objective", "trainer")
    }
    depends = [sections, document.get("recovery"), processes, version("jax"), sys.version_info[:2], processor()]
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]


def _copy(path: Path, to: Path) -> None:
    if not to.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another session has deleted it
            shutil.copyfile(path, to)
