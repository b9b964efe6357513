"""The effect of a failed stage on the tests of a story."""

from __future__ import annotations

import pytest

from tests.cluster.story import NotReached, Story, stage


class Tale(Story):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []

    @stage
    def first(self) -> int:
        self.done.append("first")
        return 1

    @stage
    def second(self) -> int:
        self.done.append("second")
        return self.first + 1

    @stage
    def third(self) -> int:
        self.done.append("third")
        raise RuntimeError("the pod did not start")

    @stage
    def last(self) -> int:
        self.done.append("last")
        return 4


def test_stages_are_done_once_and_in_their_order() -> None:
    tale = Tale()
    assert (tale.second, tale.first, tale.second) == (2, 1, 2)
    assert tale.done == ["first", "second"]


def test_a_failed_stage_is_named_by_later_stages_and_keeps_earlier_results() -> None:
    tale = Tale()
    with pytest.raises(
        NotReached, match="stopped at its stage 'third' and did not reach 'last': the pod did not start"
    ):
        _ = tale.last
    with pytest.raises(NotReached, match="stopped at its stage 'third' there: the pod did not start"):
        _ = tale.third
    assert tale.second == 2
    assert tale.done == ["first", "second", "third"], "no stage may run twice"
