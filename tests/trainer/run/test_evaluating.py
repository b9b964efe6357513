"""Runs of task ``evaluate``: real processes evaluate another run's checkpoint, and report the same numbers as that
run.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from halcyon.commands.main import app
from halcyon_api.ends import ExitCode
from tests.trainer.checkpoint.helpers import snapshot_of
from tests.trainer.support.process_groups import TrainerProcesses, run_document, start_processes
from tests.trainer.weights.folders import GOLDENS, tensors_of, write_folder

pytestmark = pytest.mark.slow

TROUBLE = "tests.trainer.support.trouble_child"


def corpus(folder: Path, sentence: str, lines: int = 400) -> dict[str, Any]:
    folder.mkdir(parents=True)
    (folder / "text.txt").write_text(
        "".join(f"{sentence} {number % 17} and {number * 31 % 101}.\n" for number in range(lines))
    )
    return {"text": {"paths": [str(folder)]}, "validation": {"fraction": 1}}


def evaluating(
    source: dict[str, Any], root: Path, sources: list[dict[str, Any]] | None = None, **more: Any
) -> dict[str, Any]:
    """A run that evaluates the newest checkpoint of another run: the same document except for a few lines."""
    origin = {"run": source["metadata"]["name"], "root": source["spec"]["checkpoint"]["root"]}
    data = source["spec"]["data"] if sources is None else {"sources": sources}
    spec = {
        **source["spec"],
        "task": "evaluate",
        "from": origin,
        "checkpoint": {"root": f"file://{root}"},
        "data": data,
        **more,
    }
    return {**source, "metadata": {**source["metadata"], "name": "evaluation"}, "spec": spec}


def done(group: TrainerProcesses) -> TrainerProcesses:
    assert set(group.wait()) == {ExitCode.DONE}, [process.noise[-20:] for process in group.processes]
    return group


def evaluations(group: TrainerProcesses) -> dict[str | None, dict[str, Any]]:
    """The evaluation events by source; None: all sources together."""
    return {event.get("source"): event for event in group.leader.events if event.get("event") == "evaluation"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], TrainerProcesses]:
    folder = tmp_path_factory.mktemp("trained")
    document = run_document(folder / "root", steps=20, evaluation={"everySteps": 20, "batches": 3})
    document["spec"]["data"]["validation"] = {"fraction": 0.2}
    document["spec"]["checkpoint"]["keep"] = 4
    return document, done(start_processes(document, folder / "run"))


def test_the_same_text_gives_the_same_bits_as_in_the_run_itself(
    trained: tuple[dict[str, Any], TrainerProcesses], tmp_path: Path
) -> None:
    document, group = trained
    root = Path(document["spec"]["checkpoint"]["root"].removeprefix("file://"))
    before = snapshot_of(root)
    found = done(start_processes(evaluating(document, tmp_path / "own"), tmp_path / "evaluation"))
    reported, expected = evaluations(found), evaluations(group)[None]
    for name in ("loss", "bitsPerByte", "tokens", "sequences"):
        assert reported[None][name] == reported["corpus"][name] == expected[name], name
    assert reported[None]["step"] == 20
    assert snapshot_of(root) == before, "the root of another run is only read"
    report = found.leader.report()
    assert report["cause"] == "completed"
    assert report["message"].startswith(
        f"the checkpoint of run tiny at step 20 has a loss of {expected['loss']:.4f} nats per token"
    )
    progress = report["progress"]
    assert (progress["step"], progress["steps"], progress["evaluationLoss"]) == (3, 3, expected["loss"])
    assert progress["evaluated"]["sources"] == [
        {key: reported["corpus"][key] for key in ("source", "loss", "bitsPerByte", "tokens", "sequences")}
    ]
    # Evaluation is the purpose of this run, so its time counts as productive.
    assert report["seconds"]["productiveStep"] > 0
    assert report["seconds"].get("evaluation", 0) == 0
    kept = json.loads((tmp_path / "own" / "evaluation.json").read_text())
    assert (kept["finished"], kept["loss"], kept["checkpoint"]["step"]) == (True, expected["loss"], 20)
    assert json.loads((tmp_path / "own" / "HEAD").read_text())["owner"]["name"] == "evaluation"


@pytest.mark.variant
def test_sources_that_were_evaluated_are_not_evaluated_again(
    trained: tuple[dict[str, Any], TrainerProcesses], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, _ = trained
    sources = [
        {"name": "short", **corpus(tmp_path / "short", "Something quite different:")},
        {"name": "long", **corpus(tmp_path / "long", "And once more, numbers:", lines=15_000)},
    ]
    trainer = {name: value for name, value in document["spec"]["trainer"].items() if name != "evaluation"}
    whole = evaluating(document, tmp_path / "whole", sources, trainer=trainer)
    expected = evaluations(done(start_processes(whole, tmp_path / "undisturbed")))
    assert expected[None]["loss"] == pytest.approx(
        sum(expected[name]["loss"] * expected[name]["tokens"] for name in ("short", "long")) / expected[None]["tokens"]
    )
    assert expected["long"]["sequences"] > 1000, "the whole source is evaluated if no number of batches is given"

    again = evaluating(document, tmp_path / "again", sources, trainer=trainer)
    batches = {name: math.ceil(expected[name]["sequences"] / 8) for name in ("short", "long")}
    monkeypatch.setenv("HANG_EVALUATING", str(batches["short"] + 5))
    assert batches["long"] > batches["short"] + 5, "the hang is in the longer source"
    first = start_processes(again, tmp_path / "disturbed", module=TROUBLE)
    first.leader.wait_for(
        lambda events: any(event.get("source") == "short" and event["event"] == "evaluation" for event in events)
    )
    kept = tmp_path / "again" / "evaluation.json"
    first.leader.wait_for(lambda _: kept.exists())
    first.signal(signal.SIGKILL, 0)
    first.wait()
    assert [one["source"] for one in json.loads(kept.read_text())["sources"]] == ["short"]
    second = start_processes(again, tmp_path / "disturbed", restart=1, module=TROUBLE)
    second.leader.wait_for(lambda events: any(event["event"] == "compiled" for event in events))
    second.signal(signal.SIGTERM, 0)
    codes = second.wait()
    assert codes[0] == ExitCode.PREEMPTED, second.leader.noise[-20:]
    assert (
        second.leader.report()["message"]
        == "a notice of preemption came; the results of the evaluated sources are kept"
    )
    third = done(start_processes(again, tmp_path / "disturbed", restart=2))
    reported = evaluations(third)
    assert "short" not in reported, "it has already been evaluated"
    assert {
        name: value for name, value in reported[None].items() if name in ("loss", "bitsPerByte", "tokens", "sequences")
    } == {name: expected[None][name] for name in ("loss", "bitsPerByte", "tokens", "sequences")}
    progress = third.leader.report()["progress"]
    assert [one["source"] for one in progress["evaluated"]["sources"]] == ["short", "long"]
    assert progress["step"] == progress["steps"] == sum(batches.values())


@pytest.mark.variant
def test_a_trained_tokenizer_is_used_for_other_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer trained on a run's own text is kept: other text would give another tokenizer, which does not fit the
    model.
    """
    document = run_document(tmp_path / "root", slices=1, steps=4)
    document["spec"]["tokenizer"] = {"bpe": {"vocabSize": 512}}
    document["spec"]["optimizer"] = {"learningRate": 0.003, "schedule": {"constant": {}}, "adamw": {}}
    done(start_processes(document, tmp_path / "run"))
    other = [{"name": "other", **corpus(tmp_path / "other", "Wholly unlike, entirely other words:")}]
    reported = evaluations(
        done(start_processes(evaluating(document, tmp_path / "own", other), tmp_path / "evaluation"))
    )
    assert math.isfinite(reported[None]["loss"])
    # The tokenizer is kept, so a run that starts from another run no longer needs that run.
    clone = {**document, "metadata": {**document["metadata"], "name": "clone"}}
    origin = {"run": "tiny", "root": f"file://{tmp_path / 'root'}"}
    clone["spec"] = {
        **document["spec"],
        "from": origin,
        "data": {"sources": [{"name": "other", "text": other[0]["text"]}]},
        "checkpoint": {"root": f"file://{tmp_path / 'clone'}", "save": {"everySteps": 2}},
        "trainer": {**document["spec"]["trainer"], "steps": 8},
    }
    with monkeypatch.context() as hanging:
        hanging.setenv("HANG", "7,0")
        first = start_processes(clone, tmp_path / "first", module=TROUBLE)
    first.leader.wait_for(lambda events: any(event["event"] == "checkpoint" and event["step"] > 4 for event in events))
    first.signal(signal.SIGKILL, 0)
    first.wait()
    shutil.rmtree(tmp_path / "root")
    assert max(done(start_processes(clone, tmp_path / "first", restart=1)).leader.losses()) == 8
    # If the other run's tokenizer is missing, the text gives another one, which is rejected in a sentence.
    document2 = {**document, "spec": {**document["spec"], "checkpoint": {"root": f"file://{tmp_path / 'second'}"}}}
    done(start_processes(document2, tmp_path / "again"))
    for folder in (tmp_path / "second" / "data", tmp_path / "second"):  # beside the tokens, and in the root itself
        shutil.rmtree(folder / "tokenizers")
    refused = start_processes(evaluating(document2, tmp_path / "refused", other), tmp_path / "other-evaluation")
    assert refused.wait() == [ExitCode.RUN_CHANGED]
    assert "tokenizer" in refused.leader.report()["message"]


def test_imported_weights_are_evaluated_as_in_a_run_that_begins_with_them(tmp_path: Path) -> None:
    """The import has more rows than the tokenizer has tokens, and more positions than a sequence of the run."""
    random = np.random.default_rng(3)
    tables = {"wte": (520, 16), "wpe": (128, 16)}
    tensors = tensors_of(GOLDENS / "gpt2")
    tensors |= {
        f"transformer.{name}.weight": random.standard_normal(shape).astype(np.float32) for name, shape in tables.items()
    }
    config = json.loads((GOLDENS / "gpt2" / "config.json").read_text()) | {"vocab_size": 520, "n_positions": 128}
    folder = write_folder(tmp_path / "model", tensors, config)
    base = CliRunner().invoke(
        app, ["import", "hf", str(folder), "--root", str(tmp_path / "base"), "--run", "tests/base"]
    )
    assert base.exit_code == 0, base.stderr

    document = run_document(
        tmp_path / "root", slices=1, steps=1, sequenceLength=32, evaluation={"everySteps": 1, "batches": 2}
    )
    document["spec"] |= yaml.safe_load(base.stdout)["spec"]  # from and model
    document["spec"]["optimizer"] = {"learningRate": 1e-30, "schedule": {"constant": {}}, "adamw": {}}
    document["spec"]["data"]["validation"] = {"fraction": 0.2}
    trained = evaluations(done(start_processes(document, tmp_path / "training")))[None]
    evaluation = evaluating(document, tmp_path / "own") | {"metadata": {"name": "evaluation", "namespace": "tests"}}
    evaluation["spec"]["from"] = document["spec"]["from"]
    reported = evaluations(done(start_processes(evaluation, tmp_path / "evaluation")))[None]
    assert (reported["step"], reported["tokens"], reported["loss"]) == (0, trained["tokens"], trained["loss"])


def test_an_impossible_evaluation_is_rejected_in_one_sentence(
    trained: tuple[dict[str, Any], TrainerProcesses], tmp_path: Path
) -> None:
    document, _ = trained
    missing = evaluating(document, tmp_path / "missing")
    missing["spec"]["from"] = {**missing["spec"]["from"], "step": 7}
    bigger = evaluating(
        document, tmp_path / "bigger", model={"family": "llama", **document["spec"]["model"], "hiddenSize": 64}
    )
    elsewhere = evaluating(document, tmp_path / "elsewhere")
    elsewhere["spec"]["from"] = {**elsewhere["spec"]["from"], "run": "somebody"}
    taken = evaluating(document, tmp_path / "taken")
    started = [
        (start_processes(one, tmp_path / f"{number}"), one) for number, one in enumerate((missing, bigger, elsewhere))
    ]
    expected = [
        (ExitCode.NO_VALID_CHECKPOINT, "spec.from.step: run tiny has no checkpoint of step 7"),
        (ExitCode.RUN_CHANGED, "spec.model.hiddenSize"),
        (ExitCode.ROOT_TAKEN, "is of run tests/tiny, not of tests/somebody"),
    ]
    for (group, _), (code, sentence) in zip(started, expected, strict=True):
        assert set(group.wait()) == {code}, group.leader.noise[-20:]
        assert sentence in group.leader.report()["message"]
    shutil.copytree(tmp_path / "missing", tmp_path / "taken")
    taken["metadata"] = {**taken["metadata"], "name": "another"}
    group = start_processes(taken, tmp_path / "taking")
    assert set(group.wait()) == {ExitCode.ROOT_TAKEN}
    assert "belongs to the run tests/evaluation" in group.leader.report()["message"]
