"""What a document names is checked before any device is used, by `halcyon validate` and by the tasks of a run alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.run.checks import check_sections, document_problems
from tests.api.documents import minimal_spec
from tests.families import SMALL_FAMILIES

ABSENT: dict[str, Any] = {"spec__model": {"family": "custom", "class": "absent_module:Model"}}
LORA: dict[str, Any] = {
    "spec__adapter": {"lora": {"targets": ["*.none.*"]}},
    "spec__from": {"huggingFace": {"path": "hf://owner/name"}},
    "spec__optimizer": {"adamw": {}},
}
GROUPS: dict[str, Any] = {"spec__optimizer": {"adamw": {}, "groups": [{"match": "*.none.*", "learningRate": 0.5}]}}
REWARD: dict[str, Any] = {
    "spec__objective": {"policy": {"reward": "absent_module:reward", "groupSize": 4, "maxTokens": 16}},
    "spec__data__sources": [
        {"name": "asked", "jsonl": {"paths": [__file__]}, "format": {"prompt": {"field": "question"}}}
    ],
}
EXPORT: dict[str, Any] = {"spec__export": {"everySteps": 5}, "spec__model": SMALL_FAMILIES["nanochat"]}
TASKS: dict[str, Any] = {"spec__trainer__evaluation": {"tasks": {"files": {"gsm8k": __file__}}}}
ROWS = {
    "spec.model.class": ABSENT,
    "spec.adapter.lora.targets": LORA,
    "spec.optimizer.groups[0]": GROUPS,
    "spec.objective.policy.reward": REWARD,
    "spec.export": EXPORT,
    "spec.trainer.evaluation.tasks.files.gsm8k": TASKS,
}
PODS = ("spec.model.class", "spec.objective.policy.reward", "spec.trainer.evaluation.tasks.files.gsm8k")


@pytest.mark.parametrize("field", ROWS)
def test_validate_finds_what_the_run_would_end_with(field: str) -> None:
    spec = minimal_spec(**ROWS[field])
    with pytest.raises(BadConfiguration) as found:
        check_sections(spec)
    assert str(found.value).startswith(f"{field}: ")
    assert [str(problem) for problem in document_problems(spec, print)] == [str(found.value)]
    away = spec.model_copy(update={"checkpoint": spec.checkpoint.model_copy(update={"root": "s3://bucket/run"})})
    assert bool(document_problems(away, print)) == (field not in PODS), "its pods have files and packages"


def test_a_run_that_only_builds_tokens_needs_no_class() -> None:
    assert document_problems(minimal_spec(spec__task="data", **ABSENT), print) == []


def test_all_problems_that_need_no_file_are_reported_at_once(tmp_path: Path) -> None:
    spec = minimal_spec(spec__data__sources=[{"name": "absent", "text": {"paths": [f"{tmp_path}/a.txt"]}}], **GROUPS)
    found = [problem.field for problem in document_problems(spec, print)]
    assert found == ["spec.data.sources[absent].text.paths[0]", "spec.optimizer.groups[0]"]


def test_a_model_that_is_given_is_not_looked_for() -> None:
    assert check_sections(minimal_spec(**ABSENT, **GROUPS), has_model=False) == []
