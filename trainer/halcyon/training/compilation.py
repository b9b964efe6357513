"""Compiled programs that outlive a pod: kept beside the checkpoints, so that a restarted run does not compile again.

JAX keeps compiled programs in a local directory, which a new pod finds empty. The first process copies the entries of this run's program
to ``compilation/<program>/`` in the checkpoint root after the first step, and every process fetches them before it compiles. ``<program>``
hashes all that a program depends on, so a changed run fetches nothing stale. An entry's key ends with the SHA-256 of its bytes: a damaged
entry is passed over and compiled anew, for a damaged program would give wrong numbers in silence.

One kind of program does not survive storage: a CPU program of several processes with collectives inside of a loop. XLA runs what does not
depend on each other in any order, but keeps collectives in theirs, for all processes must come to them alike. Read back, a program has
that order among the collectives of its main sequence and among those of each loop, but no more between the two (jaxlib 0.10.2): processes
then wait for each other, or take each other's numbers. So a program of several processes on CPU is kept only if its optimised form has no
collective in a loop, a branch or a call, and the loop over layers is unrolled there (`halcyon.parallel.partition`).
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import secrets
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from jax._src import cache_key

from halcyon.checkpoint.retention import PROGRAMS_PREFIX, is_tight
from halcyon.storage.store import Store

_ENTRY_SUFFIX = "-cache"
_REQUESTS = 8
_COMPUTATION = re.compile(r"(ENTRY )?%?[\w.\-]+ \(.*\{$")
_COLLECTIVE = re.compile(
    r"\s(all-reduce|all-gather|all-to-all|ragged-all-to-all|reduce-scatter|collective-permute|collective-broadcast|send|recv)(-start)?\("
)
# Of a small Llama's step on two processors: 2.2 s of compilation in place of 5.3 s, and the step takes as long as before, because its
# time goes into matrix products, which are library calls either way. Level 0 costs 0.6 s, but its steps take half as long again.
# Its initial state is compiled in 0.5 s in place of 2.4 s without fusion emitters, and its bits are the same.
_CPU_OPTIONS: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}


def compiler_options(*, runs_once: bool = False) -> dict[str, Any]:
    """XLA's options for this platform, chosen for a fast start: on CPU a program's compilation costs more than its optimisation gains.

    Args:
        runs_once: The program is run a single time, so any time spent on optimising it is lost.
    """
    if jax.default_backend() != "cpu":
        return {}
    return _CPU_OPTIONS | {"xla_backend_optimization_level": 0} if runs_once else _CPU_OPTIONS


def keeps_collectives_in_order(program: str) -> bool:
    """Whether all collectives of an optimised HLO module, as text, are in the sequence of its entry computation."""
    inside = True
    for line in program.splitlines():
        if _COMPUTATION.match(line):
            inside = not line.startswith("ENTRY ")
        elif inside and _COLLECTIVE.search(line):
            return False
    return True


def program_key(document: Mapping[str, Any]) -> str:
    """Name of a program: a hash of what it depends on, and of the versions and the platform that compile it."""
    backend = jax.default_backend()
    depends = {**document, "jax": jax.__version__, "platform": backend, "processes": jax.process_count()}
    if backend == "cpu":  # its programs are made for the processor they are compiled on, and another one may not know their instructions
        depends["processor"] = processor()
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]


def processor() -> str:
    """What instructions this machine's processor knows, where that can be found out."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {flags.partition(':')[2].strip()}"


class CompilationCache:
    """The local directory of compiled programs and its copy in a checkpoint root.

    Args:
        directory: Where this process may keep compiled programs.
        store: The checkpoint root.
        program: What the entries belong to, from `program_key`.
        selective: Keep only what was shown by `compiled` and keeps its collectives in order.
    """

    def __init__(self, directory: Path, store: Store, program: str, *, selective: bool = False) -> None:
        # What is not fit to be kept must not be found by a later process either.
        self.directory = directory / f"process-{secrets.token_hex(8)}" if selective else directory
        """For JAX: its compilation cache directory."""
        self._store = store
        self._prefix = f"{PROGRAMS_PREFIX}{program}/"
        self._selective = selective
        self._compiled: dict[str, list[jax.stages.Compiled]] = {}
        if selective:
            _one_key_for_all_processes()

    def compiled(self, module: str, program: jax.stages.Compiled) -> None:
        """Be shown a program that was compiled, or read back; JAX names entries after the module."""
        self._compiled.setdefault(module, []).append(program)

    def fetch(self) -> int:
        """Copy what is in the root and not in the directory. Returns how many entries came.

        Raises:
            StoreFailure: The root does not answer.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_REQUESTS) as requests:
            return sum(requests.map(self._fetch, self._store.list(self._prefix)))

    def publish(self, *, reserved_bytes: int = 0) -> int:
        """Copy what is in the directory and not in the root. Returns how many entries went: none where they would take the room of others.

        Args:
            reserved_bytes: What must stay free for checkpoints where the root is one of files.

        Raises:
            StoreFailure: The root does not answer.
        """
        known = set(self._store.list(self._prefix))
        entries: dict[str, bytes] = {}
        for path in sorted(self.directory.glob(f"*{_ENTRY_SUFFIX}")):
            content = path.read_bytes()
            key = f"{self._prefix}{path.name}.{hashlib.sha256(content).hexdigest()}"
            if key not in known and self._may_keep(path.name.removesuffix(_ENTRY_SUFFIX).rpartition("-")[0]):
                entries[key] = content
        if is_tight(self._store, reserved_bytes + sum(map(len, entries.values()))):
            return 0
        with ThreadPoolExecutor(_REQUESTS) as requests:
            list(requests.map(self._store.write, entries.keys(), entries.values()))
        return len(entries)

    def close(self) -> None:
        """Delete the directory, if it is this process's own."""
        if self._selective:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _may_keep(self, module: str) -> bool:
        if not self._selective:
            return True
        programs = self._compiled.get(module, [])
        return bool(programs) and all(keeps_collectives_in_order(program.as_text() or "") for program in programs)

    def _fetch(self, key: str) -> int:
        name, _, digest = key.removeprefix(self._prefix).rpartition(".")
        path = self.directory / name
        if "/" in name or not name.endswith(_ENTRY_SUFFIX) or path.exists():
            return 0
        content = self._store.read(key).data
        if content is None or hashlib.sha256(content).hexdigest() != digest:
            return 0
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(content)
        partial.replace(path)
        return 1


def _one_key_for_all_processes() -> None:
    """Let processes find on CPU what process 0 compiled.

    It is the same program, but JAX puts into the key what each process sees of the topology, which on CPU is its own devices and their
    numbers. The whole of it is in `program_key` already. Where a later JAX has no such function, every process compiles for itself.
    """
    if hasattr(cache_key, "_hash_accelerator_config"):
        cache_key._hash_accelerator_config = lambda hashed, devices: hashed.update(str(devices.shape).encode())
