"""What the history costs a training: the time of the loop for each step, and the processor time of the thread.

    python tests/bench/bench_history.py [--steps 200000]

A step of 100 ms may lose 0.5 ms to it. The bench records as fast as the queue takes the rows, with flushes and merges
on a local disk.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from halcyon.telemetry.history.background import STEPS_WAITING, Row
from halcyon.telemetry.history.reading import read_history

sys.path.append(str(Path(__file__).parents[2]))
from tests.trainer.telemetry.history.rows import Recorder, group, root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200_000)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        store = root(Path(folder))
        recorder = Recorder(store.place, group(1))
        began, loop = time.process_time(), 0.0
        for step in range(1, steps + 1):
            before = time.perf_counter()
            fields = {"step": step, "loss": 2.0 + 1.0 / step, "gradient_norm": 1.25, "learning_rate": 3e-4,
            "tokens": 524288.0,
                      "tokens_per_second": 52428.8, "eta_seconds": 1e5, "data_wait_seconds": 0.0, "seconds": 0.1}  # fmt: skip
            recorder.writer.record(Row("step", 1.7e9 + step, fields))
            loop += time.perf_counter() - before
            if step % (STEPS_WAITING // 4) == 0:
                recorder.now += 1000.0
                recorder.writer.hurry()
                while recorder.writer._rows:
                    time.sleep(0.001)
        recorder.now += 1000.0
        recorder.writer.close(60.0)
        spent = time.process_time() - began
        files = [path for path in (Path(folder) / "metrics").iterdir() if path.is_file()]
        history = read_history(store)
        print(
            f"{steps:,} steps: {1e6 * loop / steps:.1f} us of the loop for each, {1e6 * spent / steps:.1f} us of "
            "processor time in all"
        )
        print(f"of a step of 100 ms: {100 * spent / steps / 0.1:.3f} % (budget 0.5 %)")
        size = sum(path.stat().st_size for path in files)
        print(
            f"{len(files)} files, {size / 1e6:.2f} MB, {len(history.steps):,} steps kept, "
            f"{recorder.writer.dropped} dropped"
        )


if __name__ == "__main__":
    main()
