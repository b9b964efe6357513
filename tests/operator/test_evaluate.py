"""The operator's view of runs of the tasks ``evaluate``, ``measure`` and ``data``: they train nothing and save nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from halcyon_api.base import InvalidRun
from halcyon_api.reading import parse_run
from halcyon_api.validation import find_problems
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.spec_hash import attempt_spec_hash
from halcyon_operator.observe.trainers import parse_report
from halcyon_operator.run.run_metrics import RUN_METRICS
from tests.operator.builders import at, ended, jobset, observed, pod, report, rfc, run, termination
from tests.operator.test_attempts import SAMPLER, status
from tests.operator.test_edits import reconciled

SOURCES = [
    {"source": "prose", "loss": 2.123456, "bitsPerByte": 1.512345, "tokens": 1000, "sequences": 4},
    {"source": "code", "loss": 1.2, "tokens": 2000, "sequences": 8},
]
EVALUATED = {"run": "base", "step": 200, "path": "steps/200/", "sources": SOURCES[:1]}
TASK: dict[str, Any] = {"task": "evaluate", "from": {"run": "base"}}


def evaluating(**spec: Any) -> dict[str, Any]:
    return made(run(**TASK, **spec))


def made(document: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The document, with the status of a run in its first attempt, made from this document."""
    return document | {"status": status(attemptSpecHash=attempt_spec_hash(parse_run(document).spec), **more)}


def decided(document: dict[str, Any], stage: str = "evaluating", **progress: Any) -> Any:
    seen = report(step=3, stage=stage).model_copy(
        update={"progress": report(progress={"step": 3, "steps": 9, **progress}).progress}
    )
    return reconcile(observed(document, jobsets=[jobset()], pods=[pod(), pod(slice_index=1)], report=seen), at(60))


def test_an_evaluating_run_is_running_and_shows_its_results() -> None:
    decision = decided(evaluating(), evaluated=EVALUATED)
    assert decision.status.phase == "Running"
    assert decision.status.condition("Ready").message == "attempt 1, restart 0 is evaluating"
    found = decision.status.progress.evaluated
    assert (found.run, found.step, [one.source for one in found.sources]) == ("base", 200, ["prose"])
    assert found.sources[0].loss == 2.1235, "rounded for people"


def test_the_results_of_an_evaluation_stay_after_its_end() -> None:
    before = decided(evaluating(), evaluated=EVALUATED).status.document()
    progress = {
        "step": 9,
        "steps": 9,
        "evaluationLoss": 1.507819,
        "bitsPerByte": 1.4,
        "evaluated": EVALUATED | {"sources": SOURCES},
    }
    left = termination("completed", 0, step=9, progress=progress)
    pods = [pod(**ended(0, 90, left)), pod(slice_index=1, **ended(0, 90, termination("completed", 0, step=9)))]
    document = evaluating() | {"status": before}
    done = reconcile(observed(document, jobsets=[jobset(outcome="Completed")], pods=pods), at(100)).status
    assert (done.phase, done.progress.step, done.progress.steps) == ("Succeeded", 9, 9)
    assert [one.source for one in done.progress.evaluated.sources] == ["prose", "code"]
    assert done.condition("Ready").message == (
        "the checkpoint of run base at step 200 is evaluated: 1.5078 nats per token, 1.4000 bits per byte"
    )
    # If the operator has not received the result, the status says where it is, and shows no training step.
    unheard = reconcile(observed(evaluating(), jobsets=[jobset(outcome="Completed")]), at(100)).status
    assert unheard.phase == "Succeeded"
    assert "evaluation.json" in unheard.condition("Ready").message
    assert unheard.progress is None or unheard.progress.step != 300


@pytest.mark.parametrize("heard", [True, False])
def test_a_run_that_measured_says_what_is_slow(heard: bool) -> None:
    document = made(run(task="measure"), history=[{"attempt": 1, "restart": 0, "startedAt": rfc(0)}])
    said = termination("completed", 0, message="process 1 on b is slow")
    pods = [pod(**ended(0, 90, said)), pod(slice_index=1, **ended(0, 90, termination("completed", 0)))]
    seen = observed(document, jobsets=[jobset(outcome="Completed")], pods=pods if heard else [])
    done = reconcile(seen, at(100)).status
    assert done.phase == "Succeeded"
    expected = "process 1 on b is slow" if heard else "the collectives are measured; the log has the numbers"
    assert done.condition("Ready").message == expected


def test_a_report_with_impossible_values_is_rejected() -> None:
    body = (
        report(progress={"step": 1, "evaluated": EVALUATED | {"step": 2**60}}).model_dump_json(by_alias=True).encode()
    )
    assert parse_report(body, "demo", (1, 0)).report is None
    odd = report().model_dump(mode="json", by_alias=True)
    odd["progress"]["evaluated"] = EVALUATED | {"path": "steps/\n<script>"}
    assert "evaluated.path" in parse_report(json.dumps(odd).encode(), "demo", (1, 0)).problem


@pytest.mark.parametrize("task", ["evaluate", "data"])
def test_an_edit_of_a_run_without_checkpoints_waits_for_none(task: str) -> None:
    more: dict[str, Any] = {"task": task} | ({"from": {"run": "base"}} if task == "evaluate" else {})
    first = made(
        run(**more), inForce=reconcile(observed(run(**more), origin_root="s3://bucket/base"), at(0)).status.in_force
    )
    seen = reconciled(run(first["status"], generation=2, image="other:2", **more), step=3, saved=None)
    assert seen.asks == ()
    assert [(one.kind, one.name) for one in seen.delete] == [("JobSet", "demo-1")]
    pending = [event.message for event in seen.events if event.reason == "EditPending"]
    assert pending == ["image is other:2 but was not set: a new attempt is made at once"]


def test_a_run_that_builds_tokens_is_running_and_has_no_step() -> None:
    status = decided(made(run(task="data")), "tokenizing").status
    assert (status.phase, status.progress) == ("Running", None)
    assert status.condition("Ready").message == "attempt 1, restart 0 is tokenizing"


def test_a_sampler_is_running_and_has_no_step() -> None:
    status = decided(made(run(**SAMPLER)), "sampling").status
    assert (status.phase, status.progress) == ("Running", None)
    assert status.condition("Ready").message == "attempt 1, restart 0 is sampling"


def samples(document: dict[str, Any], stage: str) -> set[str]:
    decision = decided(document, stage)
    spec = parse_run({**document, "status": None}).spec
    return {metric.name for metric in RUN_METRICS if metric.samples(spec, decision.status)}


def test_a_run_without_steps_or_saves_exports_no_metrics_about_them() -> None:
    saves = {"halcyon_run_save_interval_steps", "halcyon_run_save_interval_seconds"}
    training = samples(made(run(checkpoint__save={"everySteps": 5})), "training")
    assert {"halcyon_run_step", "halcyon_run_save_interval_steps"} <= training
    evaluating_ = samples(evaluating(checkpoint__save={"everySteps": 5}), "evaluating")
    assert "halcyon_run_step" in evaluating_
    assert not saves & evaluating_
    data = samples(made(run(task="data")), "tokenizing")
    assert not (saves | {"halcyon_run_step", "halcyon_run_planned_steps"}) & data


def test_a_document_that_names_no_checkpoint_or_no_text_is_refused() -> None:
    with pytest.raises(InvalidRun, match="task: evaluate needs from"):
        parse_run(run(task="evaluate"))
    later = parse_run(run(**{"task": "evaluate", "from": {"run": "base", "step": 100_000}}))
    assert find_problems(later.spec) == (), "the step of the other run may exceed this run's steps"
    with pytest.raises(InvalidRun, match=r"from\.step must be less than trainer\.steps"):
        parse_run(run(**{"from": {"run": "base", "step": 100_000}}))
    (problem,) = find_problems(parse_run(run(**TASK, data__validation={"fraction": 0})).spec)
    assert str(problem).startswith("spec.data.validation.fraction: nothing is held out to evaluate on")
    own = {
        "sources": [{"name": "book", "text": {"paths": ["/book"]}, "validation": {"fraction": 1}}],
        "validation": {"fraction": 0},
    }
    assert find_problems(parse_run(run(**TASK, data=own)).spec) == ()


def test_a_model_too_large_to_train_may_still_be_evaluated() -> None:
    large = {"numHiddenLayers": 80, "hiddenSize": 8192, "intermediateSize": 28_672, "numAttentionHeads": 64}
    more: dict[str, Any] = {"accelerator": {"type": "v5p", "topology": "2x2x1"}, "model": {"family": "llama"} | large}
    trained = find_problems(parse_run(run(**more)).spec)
    assert any("gradients and optimizer state take" in str(problem) for problem in trained)
    precision = {"precision": {"parameters": "bfloat16"}}
    evaluated = find_problems(
        parse_run(run(**TASK, **more, trainer={"steps": 1, "batchSize": 8, "sequenceLength": 32} | precision)).spec
    )
    assert not any("spec.accelerator.topology" in str(problem) for problem in evaluated), evaluated
