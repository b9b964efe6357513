"""`halcyon plan` beside what it plans: the memory of a step, its time and what devices send, for documents that are
drawn from a grid, on meshes of this machine's processor (`tests/trainer/support/planned.py`).

    python tests/bench/bench_plan.py [--documents 20] [--seed 0] [--steps 5] [--scale 1]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
from tests.trainer.support.planned import drawn, planned, title

NEAR = {"memory": 0.1, "time": 0.3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--scale", type=int, default=1, help="factor of the widths")
    options = parser.parse_args()
    noise = random.Random(options.seed)
    off: dict[str, list[float]] = {"memory": [], "time": []}
    equal = 0
    for _ in range(options.documents):
        document = drawn(noise, options.scale)
        found = planned(document, options.steps)
        ratios = {"memory": found.memory[0] / found.memory[1], "time": found.time[0] / found.time[1]}
        equal += found.sent[0] == found.sent[1]
        for name, ratio in ratios.items():
            off[name].append(ratio)
        print(
            f"{title(document)}: memory {found.memory[0] / 1e6:.0f} MB planned, {ratios['memory']:.2f} times the "
            f"measured; step {found.time[0] * 1e3:.0f} ms, {ratios['time']:.2f} times; sends "
            f"{found.sent[0] / 1e6:.1f} MB, {'as counted' if found.sent[0] == found.sent[1] else 'not as counted'}",
            flush=True,
        )
    for name, ratios_of in off.items():
        near = sum(abs(ratio - 1) <= NEAR[name] for ratio in ratios_of)
        print(
            f"{name}: {statistics.median(ratios_of):.2f} times, from {min(ratios_of):.2f} to {max(ratios_of):.2f}; "
            f"{near} of {len(ratios_of)} within {NEAR[name]:.0%}"
        )
    print(f"bytes sent: {equal} of {options.documents} are those of the program that ran")


if __name__ == "__main__":
    main()
