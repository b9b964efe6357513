"""Save and restore, compared with `orbax-checkpoint` on the same state and disk, in turns. Orbax writes no checksums of
the data.

Prints wall seconds and processor seconds; on a busy machine compare the processor seconds. Orbax's side
(`orbax_child.py`) runs in a separate environment below ``HALCYON_CACHE``, which the first run makes with uv, because
Orbax is not a dependency of this project.

    python tests/bench/bench_orbax.py [--megabytes 2048] [--devices 4] [--pairs 5] [--folder /a/disk]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from checkpoint_state import make_state

from halcyon.checkpoint import Checkpointer, RunRecord
from halcyon.parallel.process_group import ProcessGroup
from halcyon_api.checkpoint_documents import DataPosition, Fingerprints, Owner
from halcyon_api.spec.checkpoint import CheckpointSpec, VerifySpec
from halcyon_devcluster.paths import cache_folder

ORBAX = "orbax-checkpoint==0.12.8"
CHILD = Path(__file__).with_name("orbax_child.py")


class Unavailable(Exception):
    """Orbax cannot be installed on this machine."""


def orbax_python() -> Path:
    """The interpreter of Orbax's environment, with this project's JAX and TensorStore. The environment is made if it is
    missing.

    Raises:
        Unavailable: The environment cannot be made.
    """
    cache = cache_folder(os.environ, Path.home())
    wanted = [ORBAX, *(f"{name}=={version(name)}" for name in ("jax", "tensorstore", "numpy"))]
    home = cache / f"orbax-{hashlib.sha256(f'{wanted} {sys.version}'.encode()).hexdigest()[:12]}"
    python, ready = home / "bin" / "python", home / ".ready"
    if not ready.exists():
        uv = shutil.which("uv") or next((str(path) for path in sorted(cache.glob("uv-*/bin/uv"))), None)
        if uv is None:
            raise Unavailable("uv is needed to make Orbax's environment: run make setup, or install uv")
        print(f"making an environment with {ORBAX} in {home}", file=sys.stderr, flush=True)
        base = str(Path(sys.executable).resolve())
        for command in (
            [uv, "venv", "--quiet", "--clear", "--python", base, str(home)],
            [uv, "pip", "install", "--quiet", "--python", str(python), *wanted],
        ):
            if subprocess.run(command, check=False).returncode:
                raise Unavailable(f"{ORBAX} could not be installed")
        ready.touch()
    return python


class Orbax:
    """The child process that runs Orbax."""

    def __init__(self, folder: Path, megabytes: int, devices: int) -> None:
        folder.mkdir()
        command = [str(orbax_python()), str(CHILD), str(megabytes), str(devices), str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.version = self._answer()["version"]

    def ask(self, word: str, number: int) -> dict[str, float]:
        """Send a command, ``save`` or ``restore``; returns its seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word} {number}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measured(work: Callable[[], float]) -> dict[str, float]:
    """Wall seconds and processor seconds of `work`, which returns the seconds until its call returned."""
    began, processor = time.perf_counter(), time.process_time()
    returned = work()
    return {"returned": returned, "seconds": time.perf_counter() - began, "processor": time.process_time() - processor}


def line(what: str, key: str, megabytes: float, ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    """Print one row: medians, and the median of the pairs' speed ratios (above 1: this project is faster)."""
    ratio = statistics.median(other[key] / one[key] for one, other in zip(ours, theirs, strict=True))
    here, there = (statistics.median(one[key] for one in side) for side in (ours, theirs))
    rate = f"{megabytes / here:7.0f} and {megabytes / there:7.0f} MB/s"
    print(f"{what:38} {here:8.3f} s, Orbax {there:8.3f} s   {rate}   speed ratio {ratio:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=2048)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--folder", default=None)
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.devices)
    saves, restores, their_saves, their_restores = [[] for _ in range(4)]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        spec = CheckpointSpec(root=f"file://{folder}/halcyon", verify=VerifySpec(every_saves=0))
        state = jax.block_until_ready(make_state(options.megabytes))
        template = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding), state
        )
        size = sum(array.nbytes for array in state.values()) / 1e6
        orbax = Orbax(folder / "orbax", options.megabytes, options.devices)

        def opened() -> Checkpointer:
            nothing, owner = Fingerprints(sections={}, documents={}), Owner(namespace="bench", name="bench")
            return Checkpointer(
                spec, RunRecord(nothing, 0, {}), owner=owner, epoch=None, processes=ProcessGroup(0, 1), expected_step=0
            )

        def save(checkpointer: Checkpointer, step: int) -> float:
            began = time.perf_counter()
            checkpointer.save(step, state, DataPosition(step=step, sequences=0, tokens=0))
            returned = time.perf_counter() - began
            checkpointer.finish()
            return returned

        def restore(checkpointer: Checkpointer) -> float:
            began = time.perf_counter()
            restored = checkpointer.restore(template)
            assert restored is not None
            jax.block_until_ready(restored.state)
            return time.perf_counter() - began

        with opened() as checkpointer:
            checkpointer.restore(template)
            for step in range(1, options.pairs + 2):  # the first pair warms up
                ours, theirs = measured(lambda step=step: save(checkpointer, step)), orbax.ask("save", step)
                if step > 1:
                    saves.append(ours)
                    their_saves.append(theirs)
        for _ in range(options.pairs):
            with opened() as checkpointer:
                restores.append(measured(lambda checkpointer=checkpointer: restore(checkpointer)))
            their_restores.append(orbax.ask("restore", options.pairs + 1))
        orbax.close()
    print(f"{size:.0f} MB on {options.devices} devices, {options.pairs} pairs, beside Orbax {orbax.version}")
    line("save blocks the loop", "returned", size, saves, their_saves)
    line("save to commit, wall", "seconds", size, saves, their_saves)
    line("save to commit, processor", "processor", size, saves, their_saves)
    line("restore, wall", "seconds", size, restores, their_restores)
    line("restore, processor", "processor", size, restores, their_restores)


if __name__ == "__main__":
    main()
