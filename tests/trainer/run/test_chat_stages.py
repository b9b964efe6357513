"""The two examples of docs/guides/data-forms.md with tiny sizes: conversations, then pairs, and a stopped run goes
on bitwise.
"""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon.weights.chat_template import chat_template
from tests.families import llama
from tests.ports import free_port
from tests.trainer.support.process_groups import start_processes

pytestmark = [pytest.mark.slow, pytest.mark.variant]
REPOSITORY = Path(__file__).parents[3]
STEPS = 40


def document(example: str, root: Path, base: Path | None = None, **spec: Any) -> dict[str, Any]:
    """An example with the sizes of a tiny model."""
    found = yaml.safe_load((REPOSITORY / "examples" / f"{example}.yaml").read_text())
    mine = found["spec"]
    mine["model"] = llama(1, 16, 24, 2)
    mine["tokenizer"]["bpe"]["vocabSize"] = 512
    for source in mine["data"]["sources"]:
        source["jsonl"]["paths"] = [str(REPOSITORY / path) for path in source["jsonl"]["paths"]]
    mine["data"]["cache"] = {"workers": 1}
    mine["optimizer"] = {"learningRate": 0.003, "schedule": {"constant": {}}, "adamw": {}}
    mine["trainer"] |= {"steps": STEPS, "sequenceLength": 160, "evaluation": {"everySteps": STEPS, "batches": 1}}
    mine["checkpoint"] = {"root": f"file://{root}", "save": {"everySteps": 10}}
    mine["telemetry"] = {"port": free_port()}
    mine["recovery"] = {"audit": {"everySteps": STEPS // 2}}  # right numbers of no objective raise an alarm
    if base is not None:
        mine["from"]["root"] = f"file://{base}"
    return found | {"spec": mine | spec}


def trained(run: dict[str, Any], log: Path) -> list[dict[str, Any]]:
    """The events of an undisturbed training."""
    leader = start_processes(run, log).ended().leader
    assert leader.report()["cause"] == "completed", leader.noise[-20:]
    return leader.events


def trained_with_a_stop(run: dict[str, Any], log: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The events before and after a notice."""
    stopped = start_processes(run, log / "first")
    stopped.leader.wait_for(lambda events: any(event["event"] == "step" and event["step"] >= 3 for event in events))
    stopped.signal(signal.SIGTERM, 0)
    first = stopped.ended().leader
    second = start_processes(run, log / "second", attempt=2).ended().leader
    assert second.report()["cause"] == "completed", second.noise[-20:]
    return first.events, second.events


def numbers(events: list[dict[str, Any]]) -> dict[int, tuple[float, ...]]:
    """Loss and metrics of each step."""
    names = ("loss", "preferenceAccuracy", "rewardMargin", "chosenReward", "rejectedReward")
    return {
        event["step"]: tuple(event.get(name, 0.0) for name in names) for event in events if event["event"] == "step"
    }


def evaluations(events: list[dict[str, Any]]) -> list[float]:
    return [event["loss"] for event in events if event["event"] == "evaluation"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run that has finetuned on conversations."""
    folder = tmp_path_factory.mktemp("base")
    events = trained(document("finetune-chat", folder / "root"), folder / "log")
    found = numbers(events)
    assert sorted(found) == list(range(1, STEPS + 1))
    assert found[STEPS][0] < found[1][0]
    assert all(map(math.isfinite, evaluations(events)))
    return folder / "root"


def test_the_template_of_the_data_is_that_of_the_model(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}{{ "
        "add_generation_prompt or '' }}"
    )
    run = document("finetune-chat", tmp_path / "root")
    for source in run["spec"]["data"]["sources"]:
        source["format"] = {"chat": {"template": template}}
    trained(run, tmp_path / "log")
    assert chat_template(f"file://{tmp_path / 'root'}") == template


def test_preference_optimization_begins_at_the_reference_and_goes_on_bitwise(base: Path, tmp_path: Path) -> None:
    whole = trained(document("preference-dpo", tmp_path / "whole", base), tmp_path / "log")
    found = numbers(whole)
    loss, _, *rewards = found[1]
    assert loss == pytest.approx(math.log(2), rel=1e-6)
    assert rewards == pytest.approx(
        [0.0] * 3, abs=1e-5
    )  # not 0: the pass with a gradient may round in another way than the reference's
    assert found[STEPS][0] < math.log(2)
    assert evaluations(whole)[-1] < math.log(2)
    first, second = trained_with_a_stop(
        document("preference-dpo", tmp_path / "stopped", base), tmp_path / "stopped-log"
    )
    assert min(numbers(second)) > 3
    assert numbers(first) | numbers(second) == found
    assert evaluations(second)[-1] == evaluations(whole)[-1]


@pytest.mark.parametrize(
    "objective", [{"ipo": {}}, {"simpo": {}, "pairsPerRow": 2}, {"orpo": {}}], ids=lambda one: next(iter(one))
)
def test_the_other_losses_train_with_an_adapter(objective: dict[str, Any], base: Path, tmp_path: Path) -> None:
    adapter = {"lora": {"rank": 2, "dropout": 0.1}}
    run = document("preference-dpo", tmp_path / "root", base, adapter=adapter, objective={"preference": objective})
    run["spec"]["optimizer"]["learningRate"] = 0.01
    events = trained(run, tmp_path / "log")
    found = numbers(events)
    assert found[STEPS][0] < found[1][0]
    assert all(map(math.isfinite, evaluations(events)))


def test_the_weighting_by_conversation_goes_on_bitwise(tmp_path: Path) -> None:
    objective = {"finetune": {"weighting": "conversation"}}
    whole = trained(document("finetune-chat", tmp_path / "whole", objective=objective), tmp_path / "log")
    first, second = trained_with_a_stop(
        document("finetune-chat", tmp_path / "stopped", objective=objective), tmp_path / "stopped-log"
    )
    assert numbers(first) | numbers(second) == numbers(whole)
    assert evaluations(second)[-1] == evaluations(whole)[-1]
    counts = [event["tokens"] for event in whole if event["event"] == "step"]
    assert counts == pytest.approx([round(count) for count in counts], rel=1e-5)
