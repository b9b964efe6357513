"""What it costs to know which sequence comes when: permutation, block order, mixture, seek, and laying documents out.

Nothing is read; the sources of the seek are pretended, 10**12 tokens of them. The shortest of several runs each.

    python tests/bench/bench_order.py [--documents 10000000]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator

import numpy as np

from halcyon.data.layout import BestFit, Pack
from halcyon.data.mixture import Mixture
from halcyon.data.order import Order, Permutation, build_order
from halcyon.data.schedule import Schedule
from halcyon.data.split import split_sequences
from halcyon_api.spec.data import BlockOrderSpec, OrderSpec
from halcyon_api.spec.trainer import TrainerStageSpec

LENGTH = 4096


def best_seconds(work: Callable[[], object], repeats: int = 7) -> float:
    """The shortest of several runs: what it costs when nobody else wants the machine."""
    durations: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        durations.append(time.perf_counter() - began)
    return min(durations)


def permuting() -> None:
    count = 10**6
    shuffle = best_seconds(lambda: np.random.default_rng(0).permutation(count)) / count
    print(f"numpy's shuffle of 10**6 in memory: {shuffle * 1e9:.1f} ns/index")
    for size in (10**6, 2**20, 2**20 + 1, 3 * 2**19, 2**40, 2**48, 2**48 + 1):
        permutation, numbers = Permutation(size, b"bench"), np.arange(count) % size
        seconds = best_seconds(lambda permutation=permutation, numbers=numbers: permutation(numbers)) / count
        print(f"permute {size:>15}: {seconds * 1e9:5.1f} ns/index")
    spec = OrderSpec(blocks=BlockOrderSpec())
    order, numbers = build_order(spec, sequences=2**40 + 1, seed=0, source="web"), np.arange(count)
    print(f"blocks of 256, windows of 512: {best_seconds(lambda: order(numbers)) / count * 1e9:.1f} ns/index")
    split, ranks = split_sequences(2**48, 0.01), np.arange(count) + 2**47
    print(f"split of 2**48: {best_seconds(lambda: split.training_sequences(ranks)) / count * 1e9:.1f} ns/index")


def seeking() -> None:
    """From the run document's numbers to the sequences of a step, everything built anew."""
    for sources in (2, 8, 64):
        sizes = [int(size) for size in np.random.default_rng(0).dirichlet(np.ones(sources)) * (10**12 / LENGTH) + 1]
        names = [f"source-{number}" for number in range(sources)]
        stages = [TrainerStageSpec(from_step=10_000 * n, batch_size=1024, sequence_length=LENGTH >> (3 - n)) for n in (1, 2, 3)]

        def build(names: list[str] = names, sizes: list[int] = sizes, stages: list[TrainerStageSpec] = stages) -> tuple[Schedule, Mixture]:
            schedule = Schedule(steps=240_000, batch_size=1024, sequence_length=LENGTH // 8, stages=stages)
            weights = [(0, [float(size) for size in sizes]), (schedule.positions_before(100_000), [1.0] * len(sizes))]
            return schedule, Mixture(names, sizes, weights)

        schedule, mixture = build()
        orders = [
            (split, Order(sequences=split.training, seed=0, source=name))
            for split, name in zip((split_sequences(size, 0.01) for size in sizes), names, strict=True)
        ]
        far = iter(range(239_000, 0, -1_000))

        def seek(schedule: Schedule = schedule, mixture: Mixture = mixture, orders: list = orders, far: Iterator[int] = far) -> None:
            positions, _ = schedule.positions(next(far))
            taken, ranks = mixture.locate(positions)
            for source in np.unique(taken):
                split, order = orders[source]
                split.training_sequences(order(ranks[taken == source]))

        print(
            f"10**12 tokens in {sources:2} sources, batch 1024: seek to a far step {best_seconds(seek, 21) * 1e3:.2f} ms, "
            f"after building schedule and mixture in {best_seconds(build) * 1e3:.2f} ms"
        )
        mixture = Mixture(names, sizes, [(0, [float(size) for size in sizes])])
        steps = iter(range(10**6))
        warm = best_seconds(lambda mixture=mixture, steps=steps: mixture.locate(next(steps) * 1024 + np.arange(1024)), 41)
        many = best_seconds(lambda mixture=mixture: mixture.locate(10**7 + np.arange(200_000)), 3) / 200_000
        print(f"    next batch of 1024: {warm * 1e6:.0f} us at best; 200,000 positions at once: {many * 1e9:.0f} ns each")


def laying_out(documents: int) -> None:
    lengths = np.minimum(np.random.default_rng(1).lognormal(6.2, 1.1, documents).astype(np.int64) + 2, 100_000)
    ends = np.cumsum(lengths)
    print(f"{documents:,} documents, {ends[-1] / 1e9:.2f} billion tokens, sequences of {LENGTH}")
    builds: dict[str, Callable[[], Pack | BestFit]] = {
        "pack": lambda: Pack.build(ends, LENGTH, max_segments=64, too_long="left"),
        "best fit, buffer 1000": lambda: BestFit.build(ends, LENGTH, buffer=1000),
    }
    for name, build in builds.items():
        began = time.perf_counter()
        layout = build()
        seconds = time.perf_counter() - began
        report, kept = layout.report, sum(array.nbytes for array in layout.to_arrays().values())
        batch = np.random.default_rng(2).integers(0, layout.sequences, 1024)
        spans = best_seconds(lambda layout=layout, batch=batch: layout.spans(batch))
        print(
            f"{name}: built in {seconds:.1f} s, {kept / 1e6:.0f} MB kept, {report.cropped_share:.1%} cropped, "
            f"{report.padded_share:.1%} padding; spans of 1024 sequences: {spans * 1e6:.0f} us"
        )
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=10**7)
    arguments = parser.parse_args()
    permuting()
    seeking()
    laying_out(arguments.documents)


if __name__ == "__main__":
    main()
