"""Orbax's side of `bench_orbax.py`, in a separate environment: makes the same state, and saves and restores it on
command.

Each input line is ``save N`` or ``restore N``. Each output line is JSON with the seconds until the call returned, the
seconds until all was done, and the processor seconds of the whole process.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from checkpoint_state import make_state


def main() -> None:
    megabytes, devices, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    state = jax.block_until_ready(make_state(megabytes))
    wanted = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding), state)
    checkpointer = ocp.StandardCheckpointer()

    def save(path: Path) -> float:
        began = time.perf_counter()
        checkpointer.save(path, state)
        returned = time.perf_counter() - began
        checkpointer.wait_until_finished()
        for old in sorted(folder.iterdir())[:-2]:
            shutil.rmtree(old)
        return returned

    def restore(path: Path) -> float:
        began = time.perf_counter()
        restored: Any = checkpointer.restore(path, wanted)
        jax.block_until_ready(restored)
        return time.perf_counter() - began

    print(json.dumps({"version": ocp.__version__}), flush=True)
    for line in sys.stdin:
        word, number = line.split()
        began, processor = time.perf_counter(), time.process_time()
        returned = {"save": save, "restore": restore}[word](folder / f"{int(number):06d}")
        took = {
            "returned": returned,
            "seconds": time.perf_counter() - began,
            "processor": time.process_time() - processor,
        }
        print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main()
