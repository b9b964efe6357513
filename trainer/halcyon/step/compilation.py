"""The compilation cache of a run, stored in the checkpoint root, so that a restarted run does not compile again.

JAX keeps compiled programs in a local directory, which is empty in a new pod. After the first step of each program,
process 0 copies the entries of the run to ``compilation/<program>/`` in the checkpoint root, and every process fetches
them before it compiles. ``<program>`` is a hash of everything that a program depends on, so a changed run fetches no
stale entry. The key of an entry ends with the SHA-256 of its bytes: a damaged entry is ignored and compiled again,
because a damaged program could compute wrong numbers without an error.

One kind of program cannot be stored: a CPU program of several processes with collectives inside a loop. XLA runs
independent operations in any order, but keeps the order of the collectives, because it must be the same on all
processes. A program that is read back has this order among the collectives of its main sequence and among those of each
loop, but no longer between the two (jaxlib 0.10.2): the processes then deadlock, or exchange the wrong numbers. So a
program of several processes on CPU is stored only if its optimised form has no collective in a loop, a branch or a
call, and a loop over a few layers is unrolled there (`halcyon.parallel.partition.LONGEST_UNROLLED`).
"""

import hashlib
import json
import os
import platform
import secrets
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from jax._src import cache_key
from jax.sharding import Mesh

from halcyon.checkpoint.retention import PROGRAMS_PREFIX, is_tight
from halcyon.host.storage.store import Store
from halcyon.step.hlo.collectives import is_collective
from halcyon.step.hlo.module import parse
from halcyon_api.hardware.compiler import Generation, generation_of, options_of, without_flags
from halcyon_api.spec.trainer import Determinism

_ENTRY_SUFFIX = "-cache"
_REQUESTS = 8
# For a small Llama on two processors, this option compiles the step in 2.2 s instead of 5.3 s. The step is as fast as
# before, because it spends its time in matrix products, which are library calls in any case. Level 0 compiles in 0.6 s,
# but its steps take 1.5 times as long.
_CPU_OPTIONS: dict[str, Any] = {"xla_backend_optimization_level": 1}

_BITWISE_ON_GPUS: dict[str, Any] = {"xla_gpu_exclude_nondeterministic_ops": True}


def compiler_options(
    determinism: Determinism = "bitwise", *, mesh: Mesh | None = None, unroll: int = 1, runs_once: bool = False
) -> dict[str, Any]:
    """XLA's options for a program. On CPUs they make the start fast: full optimisation takes longer than it saves.

    On accelerators they are those of the table `halcyon_api.hardware.compiler` that the user's ``XLA_FLAGS`` and
    ``LIBTPU_INIT_ARGS`` do not name. The determinism has a field of its own, which those flags do not change.

    Args:
        determinism: ``spec.trainer.determinism``.
        mesh: The devices of the program. None: those of this process, and no option of the table.
        unroll: Blocks of the model in one iteration of a loop over them.
        runs_once: The program runs only once, so its optimisation saves nothing.
    """
    backend = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    if backend == "cpu":
        return _CPU_OPTIONS | {"xla_backend_optimization_level": 0} if runs_once else _CPU_OPTIONS
    found: dict[str, Any] = {}
    if mesh is not None and not runs_once:
        found |= without_flags(
            options_of(generation_in(mesh), devices=mesh.size, jax=jax.__version_info__, unroll=unroll), os.environ
        )
    return found | (_BITWISE_ON_GPUS if backend == "gpu" and determinism == "bitwise" else {})


def generation_in(mesh: Mesh) -> Generation | None:
    """The generation of the devices of a mesh, for the table of options."""
    device: Any = mesh.devices.flat[0]
    return generation_of(device.device_kind, str(getattr(device, "compute_capability", "")))


def pipelines_blocks(mesh: Mesh) -> bool:
    """Whether the compiler sends for one block during the next one, if an iteration has one block."""
    one, two = (
        options_of(generation_in(mesh), devices=mesh.size, jax=jax.__version_info__, unroll=unroll) for unroll in (1, 2)
    )
    return one != two


def keeps_collectives_in_order(program: str) -> bool:
    """Whether all collectives of an optimised HLO module, as text, are in the sequence of its entry computation."""
    module = parse(program)
    return not any(
        is_collective(one) or one.opcode in ("send", "recv")
        for lines in module.computations.values()
        for one in lines
        if one.computation != module.entry
    )


def program_key(document: Mapping[str, Any]) -> str:
    """The name of a program: a hash of `document`, the version of JAX, the platform, the number of processes, and on
    CPU the processor.
    """
    backend = jax.default_backend()
    depends = {**document, "jax": jax.__version__, "platform": backend, "processes": jax.process_count()}
    if (
        backend == "cpu"
    ):  # a program compiled for one processor may have instructions that another processor does not support
        depends["processor"] = processor()
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]


def processor() -> str:
    """The architecture of this machine, and the instruction set flags of its processor where ``/proc/cpuinfo`` lists
    them.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {flags.partition(':')[2].strip()}"


class CompilationCache:
    """The local directory of compiled programs and its copy in a checkpoint root.

    Args:
        directory: Local directory for compiled programs.
        store: The checkpoint root.
        program: Name of the program that the entries belong to, from `program_key`.
        selective: Copy only programs that were passed to `compiled` and keep their collectives in order.
        stopped: Set to abandon the requests of the store.
    """

    def __init__(
        self,
        directory: Path,
        store: Store,
        program: str,
        *,
        selective: bool = False,
        stopped: threading.Event | None = None,
    ) -> None:
        self.stopped = stopped or threading.Event()
        # A directory of its own: a later process must not read a program that is not fit to be stored.
        self.directory = directory / f"process-{secrets.token_hex(8)}" if selective else directory
        """The directory that JAX uses as its compilation cache."""
        self._store = store
        self._prefix = f"{PROGRAMS_PREFIX}{program}/"
        self._selective = selective
        self._compiled: dict[str, list[jax.stages.Compiled]] = {}
        if selective:
            _one_key_for_all_processes()

    def compiled(self, module: str, program: jax.stages.Compiled) -> None:
        """Record a program that was compiled or read back. JAX names its cache entries after the module."""
        self._compiled.setdefault(module, []).append(program)

    def fetch(self) -> int:
        """Copy the entries that only the root has into the directory. Returns their number.

        Raises:
            StoreFailure: The root does not answer.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_REQUESTS) as requests:
            return sum(requests.map(self._fetch, self._store.list(self._prefix)))

    def publish(self, *, reserved_bytes: int = 0) -> int:
        """Copy the entries that only the directory has into the root.

        Returns:
            The number of copied entries; 0 if the file system of the root has too little free space.

        Args:
            reserved_bytes: Free space to keep for checkpoints, if the root is in a file system.

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
        """Delete the directory, if it belongs to this process alone."""
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
    """Make all processes on CPU use the cache entries of process 0.

    They run the same program, but JAX adds to the key the topology as each process sees it: on CPU, the numbers of its
    own devices. `program_key` already covers the complete topology. If a later JAX has no such function, every process
    compiles for itself.
    """
    if hasattr(cache_key, "_hash_accelerator_config"):
        cache_key._hash_accelerator_config = lambda hashed, devices: hashed.update(str(devices.shape).encode())
