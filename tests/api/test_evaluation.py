"""The sets of an evaluation, and the number by which the best checkpoint is chosen."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_api.training_run import InvalidRun, parse_run
from halcyon_api.validation import find_problems
from tests.api.documents import document

FIELD = "spec.trainer.evaluation"


def problems(**evaluation: Any) -> list[str]:
    run = document(spec__trainer__evaluation=evaluation, spec__data__sources=[{"name": "a", "stdlib": {}}, {"name": "b", "stdlib": {}}])
    run["spec"]["data"]["sources"][1]["validation"] = {"fraction": 0.0}
    return [str(problem) for problem in find_problems(parse_run(run).spec)]


@pytest.mark.parametrize(
    ("evaluation", "sentence"),
    [
        (
            {"bySource": {"tags": [{"name": "code", "sources": ["c"]}]}},
            f"{FIELD}.bySource.tags[code].sources: c is no source with a held-out",
        ),
        ({"bySource": {"tags": [{"name": "code", "sources": ["b"]}]}}, "b is no source with a held-out part; there are a"),
        (
            {"bySource": {"tags": [{"name": "b", "sources": ["a"]}]}},
            f"{FIELD}.bySource.tags[b].name: a source or another tag has this name",
        ),
        ({"bySource": {}, "best": {"of": "c"}}, f"{FIELD}.best.of: c is no tag and no source with a held-out part; there are a"),
    ],
)
def test_a_set_names_sources_that_are_held_out(evaluation: dict[str, Any], sentence: str) -> None:
    (found,) = problems(everySteps=5, **evaluation)
    assert sentence in found


@pytest.mark.parametrize(
    ("evaluation", "sentence"),
    [
        ({"best": {}}, "best needs evaluations; set everySteps"),
        ({"everySteps": 5, "best": {"of": "a"}}, "set bySource: {}"),
        ({"everySteps": 5, "best": {"average": "macro"}}, "set bySource: {}"),
        ({"everySteps": 5, "best": {"patience": 0}}, "patience"),
    ],
)
def test_what_the_best_checkpoint_needs(evaluation: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRun, match=sentence):
        problems(**evaluation)


def test_sets_with_names_of_their_own_are_valid() -> None:
    tags = [{"name": "code", "sources": ["a"]}]
    assert problems(everySteps=5, bySource={"tags": tags}, best={"of": "code", "average": "macro", "patience": 3}) == []
