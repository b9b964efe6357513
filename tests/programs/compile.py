"""`python -m tests.programs.compile ROW`: compiles one program and prints its plan as one line of JSON.

One process compiles for one accelerator. The compiler's answer is kept in ``$HALCYON_CACHE/programs``, under a hash of
all that the compiler gets: the traced program, its options, its flags and the versions of the packages. So a program
whose code did not change is only traced.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from halcyon.commands.programs.devices import described, described_mesh
from halcyon.step.device_use import Plan, plan_of
from halcyon.step.program import build_program
from halcyon.step.speeds import rates_of
from tests.programs.rows import DEVICES, LENGTH, ROWS, VOCABULARY, Row

_COMPILERS = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "tokamax")
_KINDS = ("argument", "output", "temp", "alias", "host_argument", "host_output", "host_temp")


class Stored:
    """The answer of a compiler, as it is kept: see `jax.stages.Compiled`."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self.seconds: float = document["seconds"]

    def as_text(self) -> str:
        return self._document["hlo"]

    def memory_analysis(self) -> Any:
        return type("Memory", (), {f"{kind}_size_in_bytes": size for kind, size in self._document["memory"].items()})()


def cache() -> Path:
    """The folder of the compilers' answers."""
    return Path(os.environ.get("HALCYON_CACHE") or Path.home() / ".cache" / "halcyon") / "programs"


def versions() -> dict[str, str]:
    """Versions of the packages that decide a program, without those that are not installed."""
    found: dict[str, str] = {}
    for name in _COMPILERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def plan_of_row(row: Row) -> Plan:
    """The plan of a row; compiles its program if no answer for it is kept."""
    spec = row.spec
    mesh = described_mesh(spec)
    with described(mesh.devices.flat[0]):
        program = build_program(spec, VOCABULARY, mesh)
        lowered = program.lower_step(DEVICES, LENGTH)
        text = lowered.as_text()
        flags = {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
        depends = json.dumps([spec.accelerator.type, versions(), program.compiler_options(), flags, text])
        path = cache() / f"{hashlib.sha256(depends.encode()).hexdigest()[:32]}.json.gz"
        if not path.exists():
            began = time.perf_counter()
            compiled: Any = program.compile(lowered)
            seconds = time.perf_counter() - began
            memory = {kind: getattr(compiled.memory_analysis(), f"{kind}_size_in_bytes", 0) for kind in _KINDS}
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_bytes(
                gzip.compress(json.dumps({"seconds": seconds, "memory": memory, "hlo": compiled.as_text()}).encode())
            )
            partial.replace(path)
    stored = Stored(json.loads(gzip.decompress(path.read_bytes())))
    return plan_of(
        program,
        stored,
        DEVICES,
        LENGTH,
        remat=spec.trainer.remat,
        memory_bytes=spec.accelerator.row.memory_bytes,
        rates=rates_of(spec.accelerator, 1),
        compile_seconds=stored.seconds,
    )


def main() -> None:
    (row,) = (row for row in ROWS if row.name == sys.argv[1])
    print(json.dumps(plan_of_row(row).document() | {"name": row.name}))


if __name__ == "__main__":
    main()
