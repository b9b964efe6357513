"""docs/testing.md agrees with the suite, and every promise has a test in `make test`."""

from __future__ import annotations

import pytest

from tests.suite import page, promises
from tests.suite.page import COLLECTED, Case
from tests.suite.tiers import SuitePart, Tier, folder


@pytest.fixture
def whole(request: pytest.FixtureRequest) -> tuple[Case, ...]:
    """All tests of the suite, including those that `-m` deselects."""
    found = request.config.stash[COLLECTED]
    folders = {case.test.split("/")[1] for case in found}
    present = {path.name for path in (page.REPOSITORY / "tests").iterdir() if any(path.glob("**/test_*.py"))}
    if not folders >= present:
        pytest.skip("only a part of the suite is collected: run `make test-fast`")
    return found


@pytest.mark.parametrize("name", promises.all_promises())
def test_a_promise_is_quoted_word_for_word_on_its_page(name: str) -> None:
    promise = promises.all_promises()[name].kwargs
    text = (page.REPOSITORY / promise["page"]).read_text(encoding="utf-8")
    assert " ".join(promise["words"].split()) in " ".join(text.split())


def test_every_promise_has_a_test_in_make_test(whole: tuple[Case, ...]) -> None:
    assert page.unproved(whole) == []


def test_the_page_is_up_to_date_with_the_suite(whole: tuple[Case, ...]) -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page(whole), "run `make generate`"


def test_every_test_is_in_the_folder_of_its_part(whole: tuple[Case, ...]) -> None:
    assert [case.test for case in whole if not case.test.startswith(f"{folder(case.part)}/")] == []


def case(tier: Tier, part: SuitePart = SuitePart.FAST, *words: str) -> Case:
    return Case("tests/api/test_one.py::test_one", tier, part, frozenset(words))


def test_a_promise_that_only_test_all_shows_is_unproved() -> None:
    words = promises.FENCED.mark.kwargs["words"]
    assert words in page.unproved([case(Tier.ALL, SuitePart.SLOW, words), case(Tier.TEST)])
    assert words not in page.unproved([case(Tier.TEST, SuitePart.SLOW, words)])


def test_a_line_names_promise_test_part_and_the_commands_that_run_a_case_of_it() -> None:
    words = promises.FENCED.mark.kwargs["words"]
    text = page.page([case(Tier.LONG, SuitePart.SLOW, words), case(Tier.TEST, SuitePart.SLOW, words)])
    assert f"| {words} | `api/test_one.py::test_one` | slow | `make test`, `make test-long` |" in text
