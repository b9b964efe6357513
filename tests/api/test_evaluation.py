"""The sets of an evaluation, and the number by which the best checkpoint is chosen."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_api.base import InvalidRun
from halcyon_api.reading import parse_run
from halcyon_api.status.progress import Progress
from halcyon_api.validation import find_problems
from tests.api.documents import document

FIELD = "spec.trainer.evaluation"


def problems(**evaluation: Any) -> list[str]:
    run = document(
        spec__trainer__evaluation=evaluation,
        spec__data__sources=[{"name": "a", "stdlib": {}}, {"name": "b", "stdlib": {}}],
    )
    run["spec"]["data"]["sources"][1]["validation"] = {"fraction": 0.0}
    return [str(problem) for problem in find_problems(parse_run(run).spec)]


@pytest.mark.parametrize(
    ("evaluation", "sentence"),
    [
        (
            {"bySource": {"tags": [{"name": "code", "sources": ["c"]}]}},
            f"{FIELD}.bySource.tags[code].sources: c is no source with a held-out",
        ),
        (
            {"bySource": {"tags": [{"name": "code", "sources": ["b"]}]}},
            "b is no source with a held-out part; there are a",
        ),
        (
            {"bySource": {"tags": [{"name": "b", "sources": ["a"]}]}},
            f"{FIELD}.bySource.tags[b].name: a source or another tag has this name",
        ),
        (
            {"bySource": {}, "best": {"of": "c"}},
            f"{FIELD}.best.of: c is no tag and no source with a held-out part; there are a",
        ),
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


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, f"{FIELD}.tasks.files: there is no task; give the path of one or more of arc-easy, "),
        ({"arc": "x.jsonl"}, f"{FIELD}.tasks.files.arc: there is no such task; the tasks are arc-easy, "),
        (
            {"core": "s3://bundle/core"},
            f"{FIELD}.tasks.files.core: s3://bundle/core is no path in the trainer's file system",
        ),
    ],
)
def test_a_task_has_a_name_and_a_file(files: dict[str, str], sentence: str) -> None:
    (found,) = problems(tasks={"files": files})
    assert found.startswith(sentence)
    assert problems(tasks={"files": {"core": "/tasks/core", "gsm8k": "test.jsonl"}, "everySteps": 5}) == []


def test_tasks_alone_can_be_evaluated_but_not_with_task_data() -> None:
    source = {"name": "a", "stdlib": {}, "validation": {"fraction": 0.0}}
    changes: dict[str, Any] = {"spec__from": {"run": "base"}, "spec__data__sources": [source]}
    for task, tasks, expected in (
        ("evaluate", None, ["spec.data.validation.fraction"]),
        ("evaluate", {"files": {"core": "/core"}}, []),
        ("data", {"files": {"core": "/core"}}, [f"{FIELD}.tasks"]),
    ):
        evaluation = {} if tasks is None else {"tasks": tasks}
        run = document(spec__task=task, spec__trainer__evaluation=evaluation, **changes)
        if task == "data":
            del run["spec"]["from"]
        assert [problem.field for problem in find_problems(parse_run(run).spec)] == expected


def test_a_report_has_only_tasks_of_the_contract() -> None:
    assert Progress(tasks={"core": 0.2, "x" * 1000: 1.0}).tasks == {"core": 0.2}
