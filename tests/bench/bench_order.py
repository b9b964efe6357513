"""The costs of the order of sequences: permutation, block order, mixture, seek, and layouts of documents.

No data is read; the sources of the seek are simulated and have 10**12 tokens. Each figure is the shortest of several
measurements; for a seek it is the median. A first seek always uses a new data set.

    python tests/bench/bench_order.py [--documents 10000000]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
from timing import best_seconds

from halcyon.data.batch_schedule import BatchSchedule
from halcyon.data.dataset import Dataset
from halcyon.data.layout.best_fit import BestFit
from halcyon.data.layout.concatenate import Concatenate
from halcyon.data.layout.pack import Pack
from halcyon.data.mixture import Mixture
from halcyon.data.order.epochs import Order
from halcyon.data.order.permutation import Permutation
from halcyon.data.source_data import SourceData
from halcyon.data.split import split_sequences
from halcyon.tokenizer import BYTE, load
from halcyon_api.spec.data import BlockOrderSpec, OrderSpec, RandomOrderSpec, WindowOrderSpec
from halcyon_api.spec.trainer import BatchScheduleEntry

LENGTH = 4096
TOKENIZER = load(BYTE)


def permuting() -> None:
    count = 10**6
    shuffle = best_seconds(lambda: np.random.default_rng(0).permutation(count)) / count
    print(f"numpy's shuffle of 10**6 in memory: {shuffle * 1e9:.1f} ns/index")
    for size in (10**6, 2**20, 2**20 + 1, 3 * 2**19, 2**40, 2**48, 2**48 + 1):
        permutation, numbers = Permutation(size, b"bench"), np.arange(count) % size
        seconds = best_seconds(lambda permutation=permutation, numbers=numbers: permutation(numbers)) / count
        print(f"permute {size:>15}: {seconds * 1e9:5.1f} ns/index")
    spec = OrderSpec(blocks=BlockOrderSpec())
    order, numbers = Order(spec, sequences=2**40 + 1, seed=0, source="web"), np.arange(count)
    print(f"blocks of 256, windows of 512: {best_seconds(lambda: order(numbers)) / count * 1e9:.1f} ns/index")
    split, ranks = split_sequences(2**48, 0.01), np.arange(count) + 2**47
    print(f"split of 2**48: {best_seconds(lambda: split.training_sequences(ranks)) / count * 1e9:.1f} ns/index")


def pretended(sources: int, spec: OrderSpec) -> Dataset:
    """A new data set of 10**12 tokens, with four sequence lengths and two stages of weights."""
    sizes = [int(size) for size in np.random.default_rng(0).dirichlet(np.ones(sources)) * (10**12 / LENGTH) + 1]
    names = [f"source-{number}" for number in range(sources)]
    stages = [
        BatchScheduleEntry(from_step=10_000 * n, batch_size=1024, sequence_length=LENGTH >> (3 - n)) for n in (1, 2, 3)
    ]
    schedule = BatchSchedule(steps=240_000, batch_size=1024, sequence_length=LENGTH // 8, stages=stages)
    weights = [(0, [float(size) for size in sizes]), (schedule.positions_before(100_000), [1.0] * len(sizes))]
    data: list[SourceData] = []
    for name, size in zip(names, sizes, strict=True):
        split = split_sequences(size, 0.01)
        order = Order(spec, sequences=split.training, seed=0, source=name)
        data.append(
            SourceData(name, NoTokens(), Concatenate(size * (LENGTH + 1), LENGTH), split, order, split.training, {})
        )
    return Dataset(data, TOKENIZER, schedule, Mixture(names, sizes, weights))


class NoTokens:
    """A token stream that is never read."""

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def gather_weights(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
        raise NotImplementedError


def seeking() -> None:
    """Find the sequences of a distant step, in a new data set, and in one that has already answered for another
    step.
    """
    far = iter(range(239_000, 0, -1_000))
    for kind, spec in (
        ("random", OrderSpec(random=RandomOrderSpec())),
        ("blocks", OrderSpec(blocks=BlockOrderSpec())),
        ("windows", OrderSpec(windows=WindowOrderSpec())),
    ):
        for sources in (2, 8, 64):
            building, cold, warm = [], [], []
            for _ in range(15):
                began = time.perf_counter()
                dataset = pretended(sources, spec)
                built = time.perf_counter()
                dataset.train_rows(next(far))
                found = time.perf_counter()
                dataset.train_rows(next(far) + 500)
                warm.append(time.perf_counter() - found)
                cold.append(found - built)
                building.append(built - began)
            far = iter(range(239_000, 0, -1_000))
            figures = ", ".join(
                f"{what} {np.median(seconds) * 1e3:.2f} ms (most {max(seconds) * 1e3:.2f})"
                for what, seconds in (("first seek", cold), ("next seek", warm), ("building", building))
            )
            print(f"10**12 tokens in {sources:2} sources, batch 1024, order {kind}: {figures}")
    mixture = pretended(8, OrderSpec(random=RandomOrderSpec())).mixture
    many = best_seconds(lambda: mixture.locate(10**7 + np.arange(200_000)), 3) / 200_000
    print(f"200,000 positions of 8 sources at once: {many * 1e9:.0f} ns each")


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=10**7)
    arguments = parser.parse_args()
    permuting()
    seeking()
    laying_out(arguments.documents)


if __name__ == "__main__":
    main()
