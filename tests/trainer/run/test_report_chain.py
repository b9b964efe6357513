"""A chain of real runs, each with tasks: what is reported while they train, what their roots keep, and the report card
of the chain.
"""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from halcyon_api.ends import ExitCode
from halcyon_api.result_documents import results_key
from halcyon_cli.main import app
from tests.trainer.evals import samples
from tests.trainer.support.process_groups import TrainerProcesses, run_document, start_processes

pytestmark = pytest.mark.slow

TROUBLE = "tests.trainer.support.trouble_child"
STEPS = 4


def document(
    folder: Path, name: str, *, tasks: dict[str, Any] | None = None, slices: int = 1, **spec: Any
) -> dict[str, Any]:
    """A small run whose root is named as the run is."""
    evaluation: dict[str, Any] = {"everySteps": 2, "batches": 1}
    if tasks is not None:
        evaluation["tasks"] = tasks
    run = run_document(folder / name, name=name, slices=slices, steps=STEPS, evaluation=evaluation)
    run["spec"]["data"]["validation"] = {"fraction": 0.2}
    run["spec"]["accelerator"]["pricePerChipHour"] = 1.5
    run["spec"]["checkpoint"]["save"] = {"everySteps": 100}
    return run | {"spec": run["spec"] | spec}


def files(folder: Path) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    return {
        "arc-easy": str(samples.lines(folder / "easy.jsonl", samples.ARC_HUB)),
        "arc-challenge": str(samples.lines(folder / "challenge.jsonl", samples.ARC_AUTHORS)),
    }


def done(group: TrainerProcesses) -> TrainerProcesses:
    assert set(group.wait()) == {ExitCode.DONE}, [process.noise[-20:] for process in group.processes]
    return group


def tasks_of(group: TrainerProcesses) -> list[tuple[int, str]]:
    return [(event["step"], event["task"]) for event in group.leader.events if event["event"] == "task"]


def kept(folder: Path, name: str, step: int) -> dict[str, Any]:
    return json.loads((folder / name / results_key(step)).read_text())


def test_the_report_card_of_a_chain_that_trained_evaluated_and_is_not_complete(tmp_path: Path) -> None:
    tasks = {"files": files(tmp_path / "tasks"), "everySteps": 2}
    first = done(start_processes(document(tmp_path, "base", tasks=tasks), tmp_path / "base-log"))
    assert tasks_of(first) == [(step, name) for step in (2, 4) for name in ("arc-easy", "arc-challenge")]
    report = first.leader.report()
    assert set(report["progress"]["tasks"]) == {"arc-easy", "arc-challenge"}
    found = kept(tmp_path, "base", STEPS)
    assert (found["finished"], found["prompts"], [one["task"] for one in found["samples"]]) == (
        True,
        "plain",
        ["arc-easy", "arc-easy", "arc-challenge"],
    )

    origin = {"run": "base", "root": f"file://{tmp_path / 'base'}"}
    second = document(tmp_path, "more", after={"run": "base"}, **{"from": origin | {"weightsOnly": True}})
    done(start_processes(second, tmp_path / "more-log"))
    last = {"run": "more", "root": f"file://{tmp_path / 'more'}"}
    evaluation = document(
        tmp_path, "judge", task="evaluate", tasks={"files": tasks["files"], "most": 1}, **{"from": last}
    )
    of_judge = done(start_processes(evaluation, tmp_path / "judge-log"))
    message = of_judge.leader.report()["message"]
    assert re.search(r"of 1 source; arc-easy \d\.\d{4}, arc-challenge \d\.\d{4}$", message), message
    progress = of_judge.leader.report()["progress"]
    assert progress["step"] == progress["steps"] > 2, "each task counts as a batch"

    html, markdown = tmp_path / "card.html", tmp_path / "card.md"
    shown = CliRunner().invoke(
        app, ["report", "--chain", str(tmp_path / "judge"), "--html", str(html), "--markdown", str(markdown)]
    )
    assert shown.exit_code == 0, shown.output
    text = markdown.read_text()
    assert text.startswith("# Report card: base → more\n")
    for words in (
        "| base | nextToken | - | 4 |",
        "| more | nextToken | base | 4 |",
        "| corpus | 100.0% |",
        "cpu 1x1, onDemand",
        "What melts in",
    ):
        assert words in text, words
    assert re.search(r"\| arc-easy \| [01]\.\d{4} ± \d\.\d{4} \| [01]\.\d{4} \|", text), "two examples, and one"
    page = html.read_text()
    assert page.count("<svg") == 2
    assert page.count("<script>") == 1, "the one that shows values below the pointer"
    assert "script-src 'sha256-" in page
    read = json.loads(
        CliRunner().invoke(app, ["report", "--chain", str(tmp_path / "judge"), "--json", "--price", "3"]).stdout
    )
    base, more = read["stages"]
    assert (base["run"], more["run"], more["from"]["run"], more["after"]) == ("base", "more", "base", "base")
    assert base["tokens"] == more["tokens"] == STEPS * 8 * 64
    assert base["cost"] == pytest.approx(3 * base["chipHours"])
    assert base["parameters"] == more["parameters"] > 0
    assert base["tasks"]["arc-easy"] == {"step": STEPS, **found["tasks"][0]} | {
        "passAt": {},
        "groups": {},
        "answers": 1,
    }
    assert more["tasks"]["arc-easy"]["examples"] == 1
    assert [one["step"] for one in more["validation"]] == [2, 4, 4]
    assert more["place"]["pricePerChipHour"] == 1.5
    assert read["missing"] == ["more: no results of tasks are kept in its root"]


@pytest.mark.variant
@pytest.mark.parametrize("slices", [1, 2])
def test_a_run_stopped_and_killed_in_a_task_goes_on_bitwise_and_repeats_no_task(
    slices: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = done(
        start_processes(document(tmp_path, "without", slices=slices), tmp_path / "without-log")
    ).leader.losses()
    run = document(tmp_path, "tiny", tasks={"files": files(tmp_path / "tasks"), "everySteps": 2}, slices=slices)
    results = tmp_path / "tiny" / results_key(2)
    monkeypatch.setenv("HANG_TASK", "arc-challenge")
    losses: dict[int, float] = {}
    found: list[tuple[int, str]] = []
    for restart, (number, codes) in enumerate(
        ((signal.SIGTERM, ExitCode.PREEMPTED), (signal.SIGKILL, -signal.SIGKILL), (None, 0))
    ):
        if number is None:
            monkeypatch.delenv("HANG_TASK")
        group = start_processes(run, tmp_path / "log", restart=restart, module=TROUBLE)
        if number is not None:
            if restart == 0:
                group.leader.wait_for(lambda _: results.exists())
            else:
                group.leader.wait_for(lambda events: any(event["event"] == "restored" for event in events))
                group.leader.wait_for(lambda events: any(event["event"] == "placed" for event in events))
            group.signal(number, 0)
        assert group.wait()[0] == codes, group.leader.noise[-20:]
        losses |= group.leader.losses()
        found += tasks_of(group)
    assert losses == expected
    assert found == [(step, name) for step in (2, 4) for name in ("arc-easy", "arc-challenge")]
    assert all(kept(tmp_path, "tiny", step)["finished"] for step in (2, 4))


@pytest.mark.variant
def test_a_task_that_cannot_be_run_is_a_warning_in_a_training_and_an_error_in_an_evaluation(tmp_path: Path) -> None:
    path = samples.lines(
        tmp_path / "talk.jsonl",
        [{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}],
    )
    bundle = samples.core_bundle(tmp_path / "bundle")
    rows = [{"query": "q", "choices": ["yes " * 60, "no " * 60], "gold": 0} for _ in range(6)]
    samples.lines(bundle / "eval_data" / "choice.jsonl", rows)  # longer than the model's positions
    run = document(tmp_path, "tiny", tasks={"files": {"smoltalk": str(path), "core": str(bundle)}})
    group = done(start_processes(run, tmp_path / "log"))
    assert tasks_of(group) == [(STEPS, "smoltalk")]
    (warning,) = [
        event["message"]
        for event in group.leader.events
        if event["event"] == "warning" and "task core/choice" in event["message"]
    ]
    assert warning.endswith("; the run trains on without the tasks of this step")
    origin = {"run": "tiny", "root": f"file://{tmp_path / 'tiny'}"}
    evaluation = document(
        tmp_path, "judge", task="evaluate", tasks={"files": {"core": str(bundle)}}, **{"from": origin}
    )
    failed = start_processes(evaluation, tmp_path / "judge-log")
    assert failed.wait() == [ExitCode.BAD_CONFIGURATION]
    assert failed.leader.report()["message"].startswith("task core/choice on the model of step 4: ")

    task = f"smoltalk={path}"
    asked = CliRunner().invoke(app, ["eval", str(tmp_path / "tiny"), "--task", task, "--plain", "--keep", "--json"])
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.stdout)["step"] == STEPS
    of_command = json.loads((tmp_path / "tiny" / results_key(STEPS, of_command=True)).read_text())["tasks"]
    assert of_command[0]["bitsPerByte"] == pytest.approx(kept(tmp_path, "tiny", STEPS)["tasks"][0]["bitsPerByte"]), (
        "the same model"
    )
    read = json.loads(CliRunner().invoke(app, ["report", "--chain", str(tmp_path / "tiny"), "--json"]).stdout)
    assert read["stages"][0]["tasks"]["smoltalk"]["bitsPerByte"] == of_command[0]["bitsPerByte"]
    assert "tiny: not all of its tasks are done" in read["missing"]
