"""``--set PATH=VALUE``: typed by the schema, and refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.base import InvalidRun
from halcyon_api.defaults.files import load_resolved
from halcyon_api.overrides import parse_override, with_overrides
from halcyon_api.reading import parse_run
from tests.api.documents import document


def changed(*overrides: str, **changes: Any) -> Any:
    return with_overrides(document(**changes), [parse_override(text) for text in overrides])


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("spec.optimizer.learningRate=3e-4", ("optimizer", "learningRate"), 3e-4),
        ("spec.trainer.steps=100", ("trainer", "steps"), 100),
        ("spec.data.sources[0].weight=2", ("data", "sources", 0, "weight"), 2),
        ("spec.data.sources.0.weight=2", ("data", "sources", 0, "weight"), 2),
        ("spec.image=123", ("image",), "123"),
        ("spec.checkpoint.root=gs://bucket/a=b", ("checkpoint", "root"), "gs://bucket/a=b"),
        ("spec.optimizer.schedule={wsd: {decaySteps: 2}}", ("optimizer", "schedule"), {"wsd": {"decaySteps": 2}}),
        ("spec.trainer.microbatches=auto", ("trainer", "microbatches"), "auto"),
        ("spec.suspend=true", ("suspend",), True),
    ],
)
def test_a_value_has_the_type_of_its_field(text: str, path: tuple[str | int, ...], value: Any) -> None:
    found = changed(text)["spec"]
    for part in path:
        found = found[part]
    assert (found, type(found)) == (value, type(value))


def test_null_removes_a_field_and_the_document_that_was_given_stays() -> None:
    before = document(spec__optimizer={"learningRate": 0.5, "adamw": {}})
    found = with_overrides(
        before, [parse_override("spec.optimizer.learningRate=null"), parse_override("metadata.name=other")]
    )
    assert found["spec"]["optimizer"] == {"adamw": {}}
    assert (found["metadata"]["name"], before["metadata"]["name"]) == ("other", "small")
    assert before["spec"]["optimizer"]["learningRate"] == 0.5
    assert parse_run(changed("spec.mesh=null")).spec.mesh is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "spec.trainer.epochs=3",
            "spec.trainer.epochs: unknown field; did you mean spec.trainer.steps? `halcyon data stats RUN.YAML --set "
            "spec.trainer.steps=1` prints the steps for 1, 2 and 3 epochs",
        ),
        (
            "spec.modle.llama.numHiddenLayers=1",
            "spec.modle.llama.numHiddenLayers: unknown field; did you mean spec.model?",
        ),
        ("spec.steps=1", "spec.steps: unknown field; did you mean spec.trainer.steps?"),
        ("spec.trainer.qqq=1", "spec.trainer.qqq: unknown field; there are steps, batchSize"),
        ("spec.trainer.steps=1.5", "spec.trainer.steps: must be a whole number, not 1.5"),
        ("spec.optimizer.learningRate=-1", "spec.optimizer.learningRate: must be greater than 0"),
        ("spec.trainer.precision.compute=fp16", "spec.trainer.precision.compute: must be 'float32' or 'bfloat16'"),
        ("spec.optimizer.schedule={wsd: {}}", "spec.optimizer.schedule.wsd.decaySteps: required"),
        ("spec.data.sources.weight=1", "spec.data.sources is a list; write the number of an entry, such as [0]"),
        ("spec.trainer[0]=1", "spec.trainer is not a list, so it has no entry 0"),
        ("spec.trainer.steps.more=1", "spec.trainer.steps has no field more"),
        ("status.phase=Running", "only fields of spec, metadata.name and metadata.namespace can be set"),
        ("metadata.labels=1", "only fields of spec, metadata.name and metadata.namespace can be set"),
        ("spec.$x=1", "not a path"),
        ("spec.trainer={", "spec.trainer: the value is not YAML"),
    ],
)
def test_a_wrong_override_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InvalidRun) as refused:
        changed(text)
    assert sentence in str(refused.value)
    assert "take the quotes away" not in str(refused.value)


def test_overrides_are_part_of_the_run_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document()))
    run = load_resolved(path, overrides=("spec.trainer.steps=7", "spec.trainer.steps=9"))
    assert run.spec.trainer.steps == 9, "the last of two changes must count"
