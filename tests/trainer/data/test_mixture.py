"""A mixture gives every source its share in every block, uses each sequence once an epoch, and no source changes
another's order.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from halcyon.data.batch_schedule import BatchSchedule
from halcyon.data.mixture import Mixture, build_mixture, rehearsed_sequences, stop_problem
from halcyon.data.order.epochs import Order
from halcyon.data.shares import MAX_BLOCKS, Shares
from halcyon.data.split import spread
from halcyon.host.errors import BadConfiguration
from halcyon_api.spec.data import DataSpec, MixtureScheduleEntry, MixtureSpec, SourceWeightSpec
from halcyon_api.spec.sources import DataSourceSpec, TextSourceSpec
from halcyon_api.spec.trainer import BatchScheduleEntry
from tests.trainer.data.corpus import RANDOM

some_weights = st.lists(st.floats(0, 1e12, allow_subnormal=False), min_size=1, max_size=8).filter(any)


def asked_for(mixture: Mixture, positions: int) -> list[list[int]]:
    """For each source, the ranks that the first positions take from it, in order."""
    sources, ranks = mixture.locate(np.arange(positions))
    return [ranks[sources == source].tolist() for source in range(len(mixture.names))]


@settings(deadline=None)
@given(some_weights, st.integers(1, 300), st.integers(0, MAX_BLOCKS - 100))
def test_every_block_has_exact_shares_and_debts_stay_small(
    weights: list[float], block_sequences: int, first: int
) -> None:
    shares = Shares(weights, block_sequences)
    whole = sum(map(Fraction, weights))
    exact = [Fraction(weight) * block_sequences / whole for weight in weights]
    expected, _ = shares(first)
    for block in range(first, first + 30):
        before, inside = shares(block)
        assert before.tolist() == expected.tolist()
        assert inside.sum() == block_sequences
        assert before.sum() == block * block_sequences
        for share, count, ahead in zip(exact, inside.tolist(), before.tolist(), strict=True):
            # The rounding at the root is less than one sequence in 2**44 blocks.
            assert share // 1 <= count <= -(-share // 1) or abs(share - count) < 1 + Fraction(1, 2**40)
            assert abs(ahead - block * share) < 2
        expected = before + inside


def test_debts_of_a_million_blocks_stay_below_one_sequence() -> None:
    """Random rounding would owe hundreds of sequences after a million blocks."""
    weights = [0.1, 0.2, 0.3, 0.4, 1 / 7, 1 / 3, 1e-4, 3.0]
    shares, exact = Shares(weights, 10), np.array(weights) / sum(weights) * 10
    for block in np.random.default_rng(0).integers(0, 10**6, 500).tolist():
        assert np.abs(shares(block)[0] - block * exact).max() < 1


@settings(deadline=None)
@given(some_weights, st.lists(st.integers(1, 90), max_size=3), st.integers(5, 40), st.integers(0, 9))
def test_each_source_gives_its_ranks_in_order(weights: list[float], starts: list[int], block: int, seed: int) -> None:
    """Also across blocks and stages with any start; the counts before a position equal the number of ranks taken."""
    firsts = sorted({0, *starts})
    stages = [
        (first, weights[number % len(weights) :] + weights[: number % len(weights)])
        for number, first in enumerate(firsts)
    ]
    names = [f"source-{number}" for number in range(len(weights))]
    mixture = Mixture(names, [7] * len(names), stages, block_sequences=block, seed=seed)
    sources, ranks = mixture.locate(np.arange(120))
    for source in range(len(names)):
        assert np.array_equal(ranks[sources == source], np.arange((sources == source).sum()))
    for position in (0, 1, 17, 61, 120):
        counts = np.bincount(sources[:position], minlength=len(names))
        assert np.array_equal(mixture.ranks(position), counts)
        assert np.array_equal(mixture.epochs(position), counts / 7)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2700), st.integers(1, 300))
def test_single_positions_equal_those_of_the_whole_mixture(first: int, size: int) -> None:
    mixture = Mixture(["a", "b", "c"], [10, 20, 30], [(0, [1, 2, 3]), (1234, [5, 0, 1])], block_sequences=64)
    whole = mixture.locate(np.arange(3000))
    fresh = Mixture(["a", "b", "c"], [10, 20, 30], [(0, [1, 2, 3]), (1234, [5, 0, 1])], block_sequences=64)
    for part, all_of_it in zip(fresh.locate(np.arange(first, first + size)), whole, strict=True):
        assert np.array_equal(part, all_of_it[first : first + size])
    scattered = np.random.default_rng(first).permutation(3000)[:size]
    for part, all_of_it in zip(fresh.locate(scattered), whole, strict=True):
        assert np.array_equal(part, all_of_it[scattered])


def test_a_source_of_weight_0_has_no_effect_at_any_place_in_the_list() -> None:
    """Levanter keys a source's shuffle by its index in the list, so that removing a source of weight 0 reorders the
    others.
    """
    without = Mixture(["maths", "web"], [50, 90], [(0, [1, 3]), (77, [2, 1])], block_sequences=10, seed=4)
    sources, ranks = without.locate(np.arange(500))
    for names, weights in [(["books", "maths", "web"], (0, 1, 2)), (["web", "books", "maths"], (1, 2, 0))]:
        later = [[{"books": 0, "maths": m, "web": w}[name] for name in names] for m, w in ((1, 3), (2, 1))]
        sizes = [{"books": 0, "maths": 50, "web": 90}[name] for name in names]
        mixture = Mixture(names, sizes, [(0, later[0]), (77, later[1])], block_sequences=10, seed=4)
        with_it, with_ranks = mixture.locate(np.arange(500))
        assert [names[source] for source in with_it] == [without.names[source] for source in sources]
        assert np.array_equal(with_ranks, ranks)
        assert weights  # the indices of the sources


def test_another_source_does_not_change_the_order_of_a_source() -> None:
    """The first thousand sequences of a source, and their order, do not depend on the other sources."""

    def given_by_web(names: list[str], weights: list[float]) -> list[int]:
        mixture = Mixture(names, [400] * len(names), [(0, weights)], block_sequences=32, seed=9)
        order = Order(RANDOM, sequences=400, seed=9, source="web")
        ranks = np.array(asked_for(mixture, 30_000)[names.index("web")][:1000])
        return order(ranks).tolist()

    alone = given_by_web(["web"], [1.0])
    assert given_by_web(["books", "web"], [1.0, 3.0]) == alone
    assert given_by_web(["web", "articles", "books"], [0.3, 5.0, 0.1]) == alone
    assert given_by_web(["texts", "web"], [1.0, 3.0]) == alone  # books, renamed


def test_every_epoch_of_a_source_has_each_sequence_once_in_a_new_order() -> None:
    """In Levanter all epochs have the order of the first (reproduced; its issue #2869)."""
    mixture = Mixture(["a", "b"], [40, 60], [(0, [1, 1])], block_sequences=16)
    ranks = np.array(asked_for(mixture, 1000)[0])
    epochs = Order(RANDOM, sequences=40, seed=0, source="a")(ranks[:480]).reshape(12, 40)
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.arange(40), (12, 1)))
    assert len(np.unique(epochs, axis=0)) == 12
    assert np.abs(np.corrcoef(epochs) - np.eye(12)).max() < 0.6


def test_slots_of_a_block_are_assigned_at_random() -> None:
    """Each slot goes to each source in proportion to its share, and blocks are independent."""
    mixture = Mixture(["a", "b", "c"], [9] * 3, [(0, [1, 2, 5])], block_sequences=32, seed=1)
    sources = mixture.locate(np.arange(32 * 1500))[0].reshape(1500, 32)
    for source, share in enumerate([1 / 8, 2 / 8, 5 / 8]):
        hits = (sources == source).astype(float)
        assert np.abs(hits.mean(axis=0) - share).max() < 5 * np.sqrt(share * (1 - share) / 1500)
        neighbours = np.corrcoef(hits[:-1].ravel(), hits[1:].ravel())[0, 1]
        assert abs(neighbours) < 5 / np.sqrt(hits.size)
        lag = np.corrcoef(hits[:, :-1].ravel(), hits[:, 1:].ravel())[0, 1]
        assert abs(lag - -1 / 31) < 5 / np.sqrt(hits.size)  # slots are drawn without replacement


def test_the_mixture_of_a_key_never_changes() -> None:
    mixture = Mixture(["a", "b", "c"], [9] * 3, [(0, [1, 2, 4]), (14, [4, 0, 1])], block_sequences=7, seed=3)
    sources, ranks = mixture.locate(np.arange(21))
    assert (sources.dtype, ranks.dtype) == (np.int32, np.int64)
    assert sources.tolist() == GOLDEN_SOURCES
    assert ranks.tolist() == GOLDEN_RANKS
    other = Mixture(["a", "b", "c"], [9] * 3, [(0, [1, 2, 4]), (14, [4, 0, 1])], block_sequences=7, seed=4)
    assert other.locate(np.arange(21))[0].tolist() != GOLDEN_SOURCES


def test_far_positions_cost_no_more() -> None:
    """Positions around 2 × 10**12 (a trillion tokens are 244 million sequences of 4096) are computed directly, without
    iterating.
    """
    mixture = Mixture(["a", "b"], [10**8, 10**9], [(0, [1, 3]), (10**8 + 1, [2, 1])])
    position = 2 * 10**12
    sources, ranks = mixture.locate(np.arange(position, position + 1000))
    before, after = mixture.ranks(position), mixture.ranks(position + 1000)
    assert before.sum() == position
    for source in (0, 1):
        assert np.array_equal(ranks[sources == source], np.arange(before[source], after[source]))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 5)), min_size=1, max_size=4),
    st.integers(1, 20),
    st.sampled_from(["firstExhausted", "allExhausted"]),
)
def test_the_data_ends_where_the_stop_rule_requires(sources: list[tuple[int, int]], block: int, stop: Any) -> None:
    assume(any(weight for _, weight in sources))
    names = [str(number) for number in range(len(sources))]
    sizes = [size for size, _ in sources]
    mixture = Mixture(names, sizes, [(0, [weight for _, weight in sources])], block_sequences=block, stop=stop)
    limit = mixture.limit()
    assert limit is not None
    active = [number for number, (_, weight) in enumerate(sources) if weight]
    if stop == "firstExhausted":
        assert all(mixture.ranks(limit)[number] <= sizes[number] for number in active)
        assert any(mixture.ranks(limit + 1)[number] > sizes[number] for number in active)
    else:
        assert all(mixture.ranks(limit)[number] >= sizes[number] for number in active)
        assert any(mixture.ranks(limit - 1)[number] < sizes[number] for number in active)


def test_an_endless_mixture_has_no_limit() -> None:
    assert Mixture(["a"], [5], [(0, [1])]).limit() is None
    stages = [(0, [1.0, 1.0]), (10, [1.0, 0.0])]
    assert Mixture(["a", "b"], [5, 100], stages, block_sequences=2, stop="allExhausted").limit() is None
    assert Mixture(["a", "b"], [100, 5], stages, block_sequences=2, stop="allExhausted").limit() == 105


def data_of(weights: dict[str, float | None], **mixture: Any) -> DataSpec:
    sources = [
        DataSourceSpec(name=name, weight=weight, text=TextSourceSpec(paths=["/x"])) for name, weight in weights.items()
    ]
    return DataSpec(sources=sources, mixture=MixtureSpec(**mixture))


def test_weights_change_at_steps_and_sizes_are_the_default() -> None:
    data = data_of(
        {"a": None, "b": None},
        block_sequences=4,
        schedule=[MixtureScheduleEntry(from_step=5, weights=[SourceWeightSpec(source="b", weight=2)])],
    )
    periods = [BatchScheduleEntry(from_step=2, batch_size=3, sequence_length=8)]
    schedule = BatchSchedule(steps=10, batch_size=2, sequence_length=16, periods=periods)
    mixture = build_mixture(data, {"a": 30, "b": 10}, schedule, seed=0)
    assert mixture.ranks(4).tolist() == [3, 1]
    boundary = schedule.positions_before(5)
    assert boundary == 4 + 5  # nine halves begin five sequences of the longest length
    assert set(mixture.locate(np.arange(boundary, 40))[0].tolist()) == {1}
    assert 0 in mixture.locate(np.arange(4, boundary))[0]

    branch = BatchSchedule(steps=10, batch_size=2, sequence_length=16, begins=(7, 0))
    begun = build_mixture(data, {"a": 30, "b": 10}, branch, seed=0)
    assert set(begun.locate(np.arange(40))[0].tolist()) == {1}, "a branch begins with the weights of its step"


@pytest.mark.parametrize(
    ("data", "sizes", "sentence"),
    [
        (
            data_of({"a": 1.0, "b": 1.0}),
            {"a": 5, "b": 0},
            "spec.data.sources[b].weight: the source has no sequences to train on; set its weight to 0, or give it "
            "more text",
        ),
        (
            data_of(
                {"a": 1.0, "b": 0},
                schedule=[MixtureScheduleEntry(from_step=5, weights=[SourceWeightSpec(source="b", weight=2)])],
            ),
            {"a": 5, "b": 0},
            "spec.data.mixture.schedule[0].weights[b]: the source has no sequences to train on; set its weight to 0, "
            "or give it more text",
        ),
        (
            data_of({"a": None, "b": None}),
            {"a": 0, "b": 0},
            "spec.data.sources: no source has sequences to train on; give more text, or hold out less of it",
        ),
    ],
)
def test_sources_without_sequences_are_reported_by_field(data: DataSpec, sizes: dict[str, int], sentence: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        build_mixture(data, sizes, BatchSchedule(steps=10, batch_size=2, sequence_length=16), seed=0)
    assert str(refused.value) == sentence


def test_a_source_for_evaluation_alone_needs_no_weight() -> None:
    mixture = build_mixture(
        data_of({"a": None, "b": None}),
        {"a": 5, "b": 0},
        BatchSchedule(steps=1, batch_size=2, sequence_length=2),
        seed=0,
    )
    assert mixture.ranks(100).tolist() == [100, 0]


def test_the_error_for_a_run_longer_than_its_data_names_the_limit() -> None:
    data = data_of({"a": 1.0, "b": 3.0}, block_sequences=4, stop="firstExhausted")
    schedule = BatchSchedule(steps=50, batch_size=8, sequence_length=16)
    mixture = build_mixture(data, {"a": 30, "b": 32}, schedule, seed=0)
    limit = mixture.limit()
    assert limit is not None
    assert 40 < limit < 48  # three of every four are from b
    assert stop_problem(mixture, schedule, pad_last=False) == (
        f"spec.trainer.steps: 50 steps need more than the {limit} sequences after which spec.data.mixture.stop: "
        "firstExhausted ends the data (exhausted: b); set steps to 5 or less, or stop to restart"
    )
    assert "set steps to 6 or less" in str(stop_problem(mixture, schedule, pad_last=True))
    assert stop_problem(mixture, BatchSchedule(steps=5, batch_size=8, sequence_length=16), pad_last=False) is None


def test_a_rehearsal_repeats_its_part_as_often_as_the_run_repeats_the_whole() -> None:
    assert rehearsed_sequences(1000, run_tokens=10, simulate_tokens=40) == 250
    assert rehearsed_sequences(3, run_tokens=10, simulate_tokens=10**15) == 1
    assert rehearsed_sequences(1000, run_tokens=40, simulate_tokens=40) == 1000
    assert rehearsed_sequences(0, run_tokens=10, simulate_tokens=40) == 0
    sizes = {"a": 4000, "b": 600}
    full = Mixture(list(sizes), list(sizes.values()), [(0, [1, 1])])
    part = [rehearsed_sequences(size, run_tokens=20_000, simulate_tokens=200_000) for size in sizes.values()]
    rehearsal = Mixture(list(sizes), part, [(0, [1, 1])])
    assert rehearsal.epochs(2000) == pytest.approx(full.epochs(20_000), rel=0.01)
    chosen = spread(np.arange(part[1]), chosen=part[1], total=600)
    assert set(np.diff(chosen).tolist()) == {10}


GOLDEN_SOURCES = [2, 2, 1, 1, 0, 2, 2, 2, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0, 0, 2, 0]
GOLDEN_RANKS = [0, 1, 0, 1, 0, 2, 3, 4, 2, 3, 5, 6, 7, 1, 2, 3, 4, 5, 6, 8, 7]
