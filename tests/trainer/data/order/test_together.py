"""Permutations that are evaluated together give the same values as each alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halcyon.data.order import together as module
from halcyon.data.order.epochs import Order, build_order
from halcyon.data.order.permutation import Permutation
from halcyon.data.order.together import PermutationQuery, evaluate_all, run_queries
from halcyon_api.spec.data import BlockOrderSpec, OrderSpec, RandomOrderSpec, SequentialOrderSpec, WindowOrderSpec

SPECS = [
    OrderSpec(random=RandomOrderSpec()),
    OrderSpec(blocks=BlockOrderSpec(block_sequences=3, window_blocks=4)),
    OrderSpec(windows=WindowOrderSpec(sequences=7)),
    OrderSpec(sequential=SequentialOrderSpec()),
]


@given(st.lists(st.tuples(st.integers(1, 2**48), st.booleans(), st.integers(0, 40)), max_size=12), st.integers(0, 999))
def test_permutations_evaluated_together_equal_each_one_alone(wanted: list[tuple[int, bool, int]], seed: int) -> None:
    numbers = np.random.default_rng(seed)
    questions = [
        PermutationQuery(Permutation(size, f"{seed}/{at}".encode()), numbers.integers(0, size, count), inverse)
        for at, (size, inverse, count) in enumerate(wanted)
    ]
    answers = evaluate_all(questions)
    assert len(answers) == len(questions)
    for (permutation, asked, inverse), answer in zip(questions, answers, strict=True):
        alone = permutation.inverse(asked) if inverse else permutation(asked)
        assert answer.dtype == np.int64
        assert np.array_equal(answer, alone)


def test_many_queries_are_evaluated_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [PermutationQuery(Permutation(size, b"key"), np.arange(size)) for size in (100, 1000, 2047)]
    whole = evaluate_all(questions)
    monkeypatch.setattr(module, "_TOGETHER", 64)
    for question, answer, before in zip(questions, evaluate_all(questions), whole, strict=True):
        assert np.array_equal(np.sort(answer), np.arange(question.permutation.size))
        assert np.array_equal(answer, before)


@given(st.lists(st.tuples(st.sampled_from(SPECS), st.integers(1, 200), st.integers(0, 900)), min_size=1, max_size=6))
def test_orders_evaluated_together_equal_each_one_alone(wanted: list[tuple[OrderSpec, int, int]]) -> None:
    """Also across the ends of epochs and windows, where some orders have more questions than others."""

    def orders() -> list[Order]:
        return [build_order(spec, sequences=size, seed=1, source=str(at)) for at, (spec, size, _) in enumerate(wanted)]

    positions = [np.arange(first, first + 50) for _, _, first in wanted]
    together = run_queries([order.queries(mine) for order, mine in zip(orders(), positions, strict=True)])
    for order, mine, ranks in zip(orders(), positions, together, strict=True):
        assert np.array_equal(ranks, order(mine))


@pytest.mark.parametrize("number", [-1, 100])
def test_a_number_out_of_range_of_one_permutation_is_an_error(number: int) -> None:
    with pytest.raises(IndexError, match=r"outside \[0, 100\)"):
        evaluate_all(
            [
                PermutationQuery(Permutation(1000, b""), np.array([5])),
                PermutationQuery(Permutation(100, b""), np.array([number])),
            ]
        )


def test_an_empty_list_of_queries_gives_an_empty_list() -> None:
    assert run_queries([]) == []
    assert evaluate_all([]) == []
