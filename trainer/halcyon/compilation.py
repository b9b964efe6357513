"""Compiled programs that outlive a pod: kept beside the checkpoints, so that a restarted run does not compile again.

JAX keeps compiled programs in a local directory, which a new pod finds empty. The first process copies the entries of this run's program
to ``compilation/<program>/`` in the checkpoint root after the first step, and every process fetches them before it compiles. ``<program>``
hashes all that a program depends on, so a changed run fetches nothing stale. An entry's key ends with the SHA-256 of its bytes: a damaged
entry is passed over and compiled anew, for a damaged program would give wrong numbers in silence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from halcyon.checkpoint.store import Store

PREFIX = "compilation/"
_ENTRY_SUFFIX = "-cache"
_REQUESTS = 8
# Of a small Llama's step on two processors: 2.2 s of compilation in place of 5.3 s, and the step takes as long as before, because its
# time goes into matrix products, which are library calls either way. Level 0 costs 0.6 s, but its steps take half as long again.
_CPU_OPTIONS: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}


def compiler_options(*, runs_once: bool = False) -> dict[str, Any]:
    """XLA's options for this platform, chosen for a fast start: on CPU a program's compilation costs more than its optimisation gains.

    Args:
        runs_once: The program is run a single time, so any time spent on optimising it is lost.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_backend_optimization_level": 0} if runs_once else _CPU_OPTIONS


def survives_storage() -> bool:
    """Whether a program read back from a cache does what it did when it was compiled.

    XLA's CPU programs of several processes do not: read back, they issue independent collectives in any order, and gloo ends the process
    with "distributed collective mismatch" (seen with jaxlib 0.10.2).
    """
    return jax.default_backend() != "cpu" or jax.process_count() == 1


def program_key(document: Mapping[str, Any]) -> str:
    """Name of a program: a hash of what it depends on, and of the versions and the platform that compile it."""
    depends = {**document, "jax": jax.__version__, "platform": jax.default_backend(), "processes": jax.process_count()}
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]


class CompilationCache:
    """The local directory of compiled programs and its copy in a checkpoint root.

    Args:
        directory: JAX's compilation cache directory of this process.
        store: The checkpoint root.
        program: What the entries belong to, from `program_key`.
    """

    def __init__(self, directory: Path, store: Store, program: str) -> None:
        self._directory = directory
        self._store = store
        self._prefix = f"{PREFIX}{program}/"

    def fetch(self) -> int:
        """Copy what is in the root and not in the directory. Returns how many entries came.

        Raises:
            StoreFailure: The root does not answer.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_REQUESTS) as requests:
            return sum(requests.map(self._fetch, self._store.list(self._prefix)))

    def publish(self) -> int:
        """Copy what is in the directory and not in the root. Returns how many entries went.

        Raises:
            StoreFailure: The root does not answer.
        """
        known = set(self._store.list(self._prefix))
        entries: dict[str, bytes] = {}
        for path in sorted(self._directory.glob(f"*{_ENTRY_SUFFIX}")):
            content = path.read_bytes()
            key = f"{self._prefix}{path.name}.{hashlib.sha256(content).hexdigest()}"
            if key not in known:
                entries[key] = content
        with ThreadPoolExecutor(_REQUESTS) as requests:
            list(requests.map(self._store.write, entries.keys(), entries.values()))
        return len(entries)

    def _fetch(self, key: str) -> int:
        name, _, digest = key.removeprefix(self._prefix).rpartition(".")
        path = self._directory / name
        if "/" in name or not name.endswith(_ENTRY_SUFFIX) or path.exists():
            return 0
        content = self._store.read(key).data
        if content is None or hashlib.sha256(content).hexdigest() != digest:
            return 0
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(content)
        partial.replace(path)
        return 1
