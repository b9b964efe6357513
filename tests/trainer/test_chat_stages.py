"""The two examples of docs/guides/finetuning-chat.md with tiny sizes: conversations, then pairs, and each goes on bitwise after a crash."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import halcyon
from halcyon import Hooks
from halcyon.telemetry import StepReport

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]
STEPS = 6


class Crash(Exception):
    """Ends a training in the middle."""


def document(example: str, root: Path, base: Path | None = None, **spec: Any) -> dict[str, Any]:
    """An example with the sizes of a tiny model."""
    found = yaml.safe_load((REPOSITORY / "examples" / f"{example}.yaml").read_text())
    mine = found["spec"]
    mine["model"]["llama"] = {"layers": 1, "hiddenSize": 16, "intermediateSize": 24, "heads": 2}
    mine["tokenizer"]["bpe"]["vocabSize"] = 512
    for source in mine["data"]["sources"]:
        source["jsonl"]["paths"] = [str(REPOSITORY / path) for path in source["jsonl"]["paths"]]
    mine["data"]["cache"] = {"workers": 1}
    mine["trainer"] |= {"steps": STEPS, "sequenceLength": 160, "evaluation": {"everySteps": STEPS, "batches": 1}}
    mine["checkpoint"] = {"root": f"file://{root}", "save": {"everySteps": 2}}
    if base is not None:
        mine["from"]["root"] = f"file://{base}"
    return found | {"spec": mine | spec}


def trained(run: dict[str, Any], compilation: Path, *, crash_after: int | None = None) -> tuple[dict[int, StepReport], list[float]]:
    """The steps of a training by number, and the losses of its evaluations."""
    steps: dict[int, StepReport] = {}
    evaluations: list[float] = []

    def on_step(report: StepReport) -> None:
        steps[report.step] = report
        if report.step == crash_after:
            raise Crash

    hooks = Hooks(on_step=on_step, on_evaluation=lambda step, found: evaluations.append(found.loss))
    with contextlib.suppress(Crash):
        halcyon.train(run, hooks=hooks, compilation_cache=compilation)
    return steps, evaluations


def losses(steps: dict[int, StepReport]) -> dict[int, float]:
    return {number: report.loss for number, report in steps.items()}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    steps, evaluations = trained(document("finetune-chat", folder / "root"), folder / "programs")
    assert sorted(steps) == list(range(1, STEPS + 1))
    assert steps[STEPS].loss < steps[1].loss
    assert np.isfinite(evaluations).all()
    return folder


def test_preference_optimization_begins_at_the_reference_and_goes_on_bitwise_after_a_crash(base: Path, tmp_path: Path) -> None:
    whole, evaluations = trained(document("preference-dpo", tmp_path / "whole", base / "root"), base / "programs")
    assert whole[1].loss == pytest.approx(np.log(2), rel=1e-6)
    assert whole[1].metrics["reward_margin"] == 0
    assert whole[STEPS].loss < whole[1].loss
    assert evaluations[-1] < np.log(2)

    run = document("preference-dpo", tmp_path / "crashed", base / "root")
    first, _ = trained(run, base / "programs", crash_after=4)
    second, last = trained(run, base / "programs")
    assert min(second) > 1
    assert losses(first) | losses(second) == losses(whole)
    assert last == evaluations
    assert second[STEPS].metrics == whole[STEPS].metrics


@pytest.mark.variant
@pytest.mark.parametrize("objective", [{"ipo": {}}, {"simpo": {}, "pairsPerRow": 2}, {"orpo": {}}], ids=lambda one: next(iter(one)))
def test_the_other_losses_train_with_an_adapter(objective: dict[str, Any], base: Path, tmp_path: Path) -> None:
    adapter = {"lora": {"rank": 2, "dropout": 0.1}}
    run = document("preference-dpo", tmp_path / "root", base / "root", adapter=adapter, objective={"preference": objective})
    run["spec"]["optimizer"]["learningRate"] = 0.01
    steps, evaluations = trained(run, base / "programs")
    assert steps[STEPS].loss < steps[1].loss
    assert np.isfinite(evaluations).all()


@pytest.mark.variant
def test_the_weighting_by_conversation_goes_on_bitwise_and_is_evaluated(base: Path, tmp_path: Path) -> None:
    objective = {"finetune": {"weighting": "conversation"}}
    whole, evaluations = trained(document("finetune-chat", tmp_path / "whole", objective=objective), base / "programs")
    run = document("finetune-chat", tmp_path / "crashed", objective=objective)
    first, _ = trained(run, base / "programs", crash_after=4)
    second, last = trained(run, base / "programs")
    assert losses(first) | losses(second) == losses(whole)
    assert last == evaluations
    assert all(report.tokens == pytest.approx(round(report.tokens), rel=1e-5) for report in whole.values())
