"""Roots of many checkpoints, and states of many arrays: time and memory of listing, garbage collection, saving and
restoring.

The roots are not trained: they have HEAD and the checkpoints' folders with empty files. Every line is measured in a
separate process, to measure its memory alone; "beyond" is the growth of the process after its imports.

    python tests/bench/bench_roots.py [--checkpoints 1000 10000] [--files 20] [--leaves 10000 100000] [--folder /a/disk]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from halcyon.checkpoint import Checkpointer, RunRecord, list_checkpoints
from halcyon.checkpoint.collect import garbage
from halcyon.parallel.process_group import ProcessGroup
from halcyon.storage.store import Store
from halcyon_api.checkpoint_documents import (
    CommittedStep,
    DataPosition,
    Epoch,
    Fingerprints,
    Head,
    Owner,
    encode_head,
    step_prefix,
)
from halcyon_api.spec.checkpoint import CheckpointSpec, VerifySpec

OWNER = Owner(namespace="bench", name="bench")


def make_root(folder: Path, checkpoints: int, files: int) -> None:
    """Make a root of `checkpoints` checkpoints with `files` files each, and one more checkpoint that HEAD does not
    name.
    """
    entries = []
    for step in range(1, checkpoints + 2):
        path = step_prefix(step, 1, "abcd1234-1")
        (folder / path / "data/x/c").mkdir(parents=True)
        for number in range(files):
            (folder / path / f"data/x/c/{number}").touch()
        if step <= checkpoints:
            time_ = "2026-01-01T00:00:00.000Z"
            about = {
                "step": step,
                "epoch": Epoch(attempt=1, restart=0),
                "path": path,
                "manifest_sha256": "0" * 64,
                "size_bytes": 1,
            }
            entries.append(CommittedStep(**about, time=time_))
    head = Head(owner=OWNER, epoch=Epoch(attempt=1, restart=0), writer="w", committed=tuple(reversed(entries)))
    (folder / "HEAD").write_bytes(encode_head(head))


def opened(spec: CheckpointSpec) -> Checkpointer:
    """Open the root."""
    nothing = Fingerprints(sections={}, documents={})
    return Checkpointer(
        spec, RunRecord(nothing, 0, {}), owner=OWNER, epoch=None, processes=ProcessGroup(0, 1), expected_step=0
    )


def tree(leaves: int) -> dict[str, np.ndarray]:
    """A state of `leaves` small arrays."""
    return {f"layer{number}.weight": np.full(16, number, np.float32) for number in range(leaves)}


def save(spec: CheckpointSpec, leaves: int) -> None:
    """Save and commit the state."""
    with opened(spec) as checkpointer:
        checkpointer.save(1, tree(leaves), DataPosition(step=1, sequences=0, tokens=0))
        checkpointer.finish()


def restore(spec: CheckpointSpec, leaves: int) -> None:
    """Restore the state."""
    with opened(spec) as checkpointer:
        assert checkpointer.restore(tree(leaves)) is not None


def child(word: str, folder: str, number: int) -> None:
    """Run one measurement, and print it as JSON."""
    spec = CheckpointSpec(root=f"file://{folder}", verify=VerifySpec(every_saves=0))
    work: dict[str, Callable[[], object]] = {
        "list a page": lambda: list_checkpoints(spec, limit=100),
        "list all": lambda: list_checkpoints(spec),
        "gc": lambda: garbage(Store(spec)),
        "save": lambda: save(spec, number),
        "restore": lambda: restore(spec, number),
    }
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak, which a child inherits from its parent
    before = peak_bytes()
    began, processor = time.perf_counter(), time.process_time()
    work[word]()
    took = {"wall": time.perf_counter() - began, "processor": time.process_time() - processor}
    print(json.dumps(took | {"beyond": (peak_bytes() - before) / (1 << 20)}))


def peak_bytes() -> int:
    """The peak memory of this process since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def measure(what: str, word: str, folder: Path, number: int) -> None:
    ended = subprocess.run(
        [sys.executable, __file__, "--child", word, str(folder), str(number)],
        capture_output=True,
        text=True,
        check=True,
    )
    took = json.loads(ended.stdout)
    print(
        f"{what:42} {took['wall']:8.2f} s wall {took['processor']:8.2f} s processor {took['beyond']:7.0f} MiB beyond",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoints", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--leaves", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--folder", default=None)
    parser.add_argument("--child", nargs=3, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], options.child[1], int(options.child[2]))
        return
    for count in options.checkpoints:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            make_root(Path(name), count, options.files)
            for word in ("list a page", "list all", "gc"):
                measure(f"{count} checkpoints of {options.files} files: {word}", word, Path(name), 0)
    for leaves in options.leaves:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            for word in ("save", "restore", "list a page"):
                measure(f"{leaves} arrays: {word}", word, Path(name), leaves)


if __name__ == "__main__":
    main()
