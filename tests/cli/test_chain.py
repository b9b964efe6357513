"""`halcyon report --chain`: the report card of runs from what their roots have recorded, whole or in part."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from halcyon.host.storage.store import Store
from halcyon.telemetry.history.background import Row
from halcyon.telemetry.history.reading import History
from halcyon.telemetry.history.segments import ProcessGroupId
from halcyon_api.checkpoint_documents import CommittedStep, Epoch, Owner
from halcyon_api.result_documents import (
    EVALUATION_KEY,
    AnswerSample,
    EvaluationDocument,
    TaskNumbers,
    TaskResults,
    results_key,
)
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_cli.chain.stage import Stage
from halcyon_cli.main import app
from tests.trainer.telemetry.history.rows import Recorder, row

PLACE = {
    "accelerator": "v6e",
    "topology": "4x4",
    "slices": 2,
    "provisioning": "spot",
    "device_kind": "TPU v6 lite",
    "devices": 32,
    "chips": 32,
}
HOSTILE = "</pre><script>alert(1)</script>\n```\n# no heading | no cell\n- no item\n1. no number\n[no](link) &lt;"


def group(run: str, number: int = 1, resumed: int = 0) -> ProcessGroupId:
    return ProcessGroupId(number, number, 0, f"w{number}", resumed, 1000.0 * number, run, 10)


def trained(folder: Path, run: str, *, hours: float = 1.0, **placed: Any) -> Store:
    """A root with a history of ten steps."""
    place = CheckpointSpec(root=f"file://{folder / run}")
    recorder = Recorder(place, group(run), seconds=3600 * hours)
    rows = [row(step, 8 / step, tokens_per_second=100.0, reward=step / 10) for step in range(1, 11)]
    recorder.flush(
        [
            Row("placed", 1000.0, {**PLACE, **placed}),
            *rows,
            Row("evaluation", 1100.0, {"step": 10, "loss": 0.5, "bits_per_byte": 0.25}),
        ]
    )
    recorder.flush([Row("done", 1101.0, {"step": 10, "message": "all 10 steps are done"})])
    return Store(place)


def results(step: int, tasks: dict[str, float], *, time: str = "2026-01-01T00:00:00Z", **more: Any) -> TaskResults:
    numbers = tuple(
        TaskNumbers(task=name, examples=4, accuracy=value, standard_error=0.125, baseline=0.0, centred=value)
        for name, value in tasks.items()
    )
    return TaskResults(step=step, prompts="chat", tasks=numbers, finished=True, time=time, **more)


def keep(store: Store, found: TaskResults, *, of_command: bool = False) -> None:
    store.write(
        results_key(found.step, of_command=of_command), found.model_dump_json(by_alias=True, exclude_none=True).encode()
    )


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["report", "--chain", *map(str, words)], env={"COLUMNS": "200"})


def card(*words: object) -> dict[str, Any]:
    shown = run(*words, "--json")
    assert shown.exit_code == 0, shown.output
    return json.loads(shown.stdout)


def test_a_chain_is_followed_backwards_and_its_cost_is_chips_times_hours_times_price(tmp_path: Path) -> None:
    base = trained(tmp_path, "base", hours=2.0, price_per_chip_hour=1.5)
    chat = trained(tmp_path, "chat", from_run="base", from_root=base.root, after_run="base")
    keep(base, results(10, {"gsm8k": 0.25}))
    keep(chat, results(10, {"gsm8k": 0.5, "humaneval": 0.75}, chat_core=0.6))
    keep(chat, results(10, {"gsm8k": 0.625}, time="2026-01-02T00:00:00Z"), of_command=True)
    found = card(chat.root)
    assert [stage["run"] for stage in found["stages"]] == ["base", "chat"]
    assert [stage["chipHours"] for stage in found["stages"]] == [64.0, 32.0]
    assert [stage["cost"] for stage in found["stages"]] == [96.0, None]
    assert (found["cost"], found["chipHours"]) == (96.0, 96.0)
    assert card(chat.root, "--price", "2")["cost"] == 192.0
    second = found["stages"][1]
    assert {name: one["accuracy"] for name, one in second["tasks"].items()} == {"gsm8k": 0.625, "humaneval": 0.75}, (
        "the newest of each"
    )
    assert second["averages"] == {"ChatCORE": {"step": 10, "value": 0.6}}
    assert second["validation"] == [{"step": 10, "loss": 0.5, "bitsPerByte": 0.25}]
    text = run(chat.root, "--price", "2").stdout
    for words in (
        "# Report card: base → chat",
        "| base | v6e 4x4 x 2, spot (TPU v6 lite) | 32 | 64.000 | 2 | 128.00 |",
        "| gsm8k | 0.2500 ± 0.1250 | 0.6250 ± 0.1250 |",
        "| ChatCORE | - | 0.6000 |",
        "chat: loss 8 to 0.8, reward 0.1 to 1",
        "| goodput | 100.0% | 100.0% | 100.0% |",
    ):
        assert words in text, words


def test_a_sum_that_lacks_parts_says_so(tmp_path: Path) -> None:
    base = trained(tmp_path, "base", hours=2.0, price_per_chip_hour=1.5)
    chat = trained(tmp_path, "chat", from_run="base", from_root=base.root)
    assert "| cost | 64.000 chip hours, 96.00 |" in run(base.root).stdout
    assert "| cost | 96.000 chip hours, at least 96.00 |" in run(chat.root).stdout
    recorder = Recorder(base.place, group("base", 2, resumed=10), seconds=3600.0)
    recorder.flush([row(11, 0.5, tokens_per_second=100.0)])
    assert "| cost | at least 64.000 chip hours, at least 96.00 |" in run(base.root).stdout
    alone = Recorder(CheckpointSpec(root=f"file://{tmp_path / 'alone'}"), group("alone"), seconds=3600.0)
    alone.flush([row(1, 0.5)])
    assert "| cost | chip hours that are not known |" in run(tmp_path / "alone").stdout
    assert card(tmp_path / "alone")["chipHours"] is None


def test_a_share_that_no_recorded_size_gives_is_not_shown(tmp_path: Path) -> None:
    data = {"sources": [{"name": "prose"}, {"name": "code"}]}

    def stage(recorded: dict[str, Any]) -> list[float | None]:
        documents = {"spec.data": data, "data": {"sources": recorded}}
        prints = SimpleNamespace(fingerprints=SimpleNamespace(documents=documents), step=10)
        return [one.share for one in Stage("run", "root", History("root", (), (), (), (), (), 0, ()), prints).sources]  # type: ignore[arg-type]

    assert stage({"prose": {"trainSequences": 30}, "code": {"trainSequences": 10}}) == [0.75, 0.25]
    assert stage({"prose": {"trainSequences": 30}}) == [None, None]
    assert stage({}) == [None, None]


def test_what_is_missing_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    lost = trained(tmp_path, "lost", from_run="gone", from_root=f"file://{tmp_path / 'gone'}")
    found = card(lost.root)
    assert [stage["run"] for stage in found["stages"]] == ["lost"]
    assert found["missing"] == [
        f"file://{tmp_path / 'gone'} has no history, no checkpoint and no results, so its run is not shown",
        "lost: it has no checkpoint, so its model and data are not known",
        "lost: no results of tasks are kept in its root",
    ]
    unnamed = trained(tmp_path, "unnamed", from_run="lost")
    assert "its root is not recorded; give its root too" in card(unnamed.root)["missing"][0]
    both = card(lost.root, unnamed.root)
    assert [stage["run"] for stage in both["stages"]] == ["lost", "unnamed"]
    assert not any("is not recorded" in one for one in both["missing"])
    only = Store(CheckpointSpec(root=f"file://{tmp_path / 'only'}"))
    keep(only, results(3, {"gsm8k": 0.5}))
    assert card(only.root)["missing"][0].endswith("it has no history, so its curves, time and cost are not known")


def test_roots_beyond_the_longest_chain_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halcyon_cli.chain.reading.MOST_STAGES", 1)
    first = trained(tmp_path, "first")
    found = card(trained(tmp_path, "second", from_run="first", from_root=first.root).root)
    assert [stage["run"] for stage in found["stages"]] == ["second"]
    assert f"{first.root} is not shown, because a report has at most 1 roots" in found["missing"]


def test_runs_that_began_from_each_other_are_shown_once(tmp_path: Path) -> None:
    one = trained(tmp_path, "one", from_run="two", from_root=f"file://{tmp_path / 'two'}")
    trained(tmp_path, "two", from_run="one", from_root=one.root)
    assert [stage["run"] for stage in card(one.root)["stages"]] == ["two", "one"]


def test_evaluations_and_kept_results_belong_to_the_stage_that_they_evaluate(tmp_path: Path) -> None:
    base = trained(tmp_path, "base")
    judge = Store(CheckpointSpec(root=f"file://{tmp_path / 'judge'}"))
    checkpoint = CommittedStep(
        step=7,
        epoch=Epoch(attempt=1, restart=0),
        path="steps/7/",
        manifest_sha256="0" * 64,
        size_bytes=1,
        time="2026-01-01T00:00:00Z",
    )
    evaluation = EvaluationDocument(
        owner=Owner(namespace="t", name="judge"), run="base", root=base.root, checkpoint=checkpoint, decides="0" * 64,
        loss=0.75,
        finished=True, time="2026-01-01T00:00:00Z",
    )  # fmt: skip
    judge.write(EVALUATION_KEY, evaluation.model_dump_json(by_alias=True).encode())
    keep(judge, results(7, {"mmlu": 0.5}))
    keep(base, results(9, {"gsm8k": 0.5, "core/a": 0.5}, core=0.2), of_command=True)
    (stage,) = card(judge.root)["stages"]
    assert {name: one["step"] for name, one in stage["tasks"].items()} == {"mmlu": 7, "gsm8k": 9, "core/a": 9}
    assert stage["averages"] == {"CORE": {"step": 9, "value": 0.2}}
    assert [one["step"] for one in stage["validation"]] == [7, 10]
    assert "(1 of 22 tasks)" in run(judge.root).stdout


def test_texts_of_a_model_are_no_markup(tmp_path: Path) -> None:
    store = trained(tmp_path, "base")
    sample = AnswerSample(task="gsm8k", example="1", prompt=HOSTILE, answer=HOSTILE, right=False)
    keep(store, results(10, {"gsm8k": 0.0}, samples=(sample,)))
    html, markdown = tmp_path / "card.html", tmp_path / "card.md"
    shown = run(store.root, "--html", html, "--markdown", markdown)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines() == [
        f"{markdown}: the report card of 1 stage",
        f"{html}: the report card of 1 stage",
    ]
    page = html.read_text()
    assert page.count("<script") == 2, "the values of the curves, and the one script that the policy allows"
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("no heading | no cell\n- no item\n1. no number\n[no](link) &amp;lt;") == 2, "as it was written"
    assert page.count("<svg") == 1
    assert "http://" not in page.replace("http://www.w3.org/", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    lines = markdown.read_text().splitlines()
    assert "````text" in lines, "the fence is longer than that of the answer"
    assert f"> {HOSTILE.splitlines()[2]}" not in lines
    assert [line for line in lines if line.startswith("# ")] == ["# Report card: base", "# no heading | no cell"]


def test_damaged_results_are_named(tmp_path: Path) -> None:
    store = trained(tmp_path, "base")
    keep(store, results(9, {"gsm8k": 0.5}))
    store.write(results_key(10), b"{}")
    found = card(store.root)
    assert f"{store.root}/{results_key(10)} is damaged, so its results are not shown" in found["missing"]
    assert list(found["stages"][0]["tasks"]) == ["gsm8k"]


def test_texts_of_a_model_do_not_control_the_terminal(tmp_path: Path) -> None:
    store = trained(tmp_path, "base")
    text = "\x1b]0;title\x07\x1b[2Jcleared\r\x9b31m"
    keep(
        store,
        results(
            10,
            {"gsm8k": 0.0},
            samples=(AnswerSample(task="gsm8k", example="1", prompt=text, answer=text, right=False),),
        ),
    )
    shown = run(store.root)
    assert shown.exit_code == 0, shown.output
    assert "␛[2Jcleared" in shown.stdout
    assert not set("\x1b\x07\r\x9b") & set(shown.stdout)


def test_a_held_out_reward_is_no_held_out_loss(tmp_path: Path) -> None:
    place = CheckpointSpec(root=f"file://{tmp_path / 'policy'}")
    measured = [
        Row("evaluation", 1000.0 + step, {"step": step, "loss": -step / 10, "reward": step / 10}) for step in (3, 9)
    ]
    Recorder(place, group("policy"), seconds=60).flush([row(1, 0.1), *measured])
    stage = card(place.root)["stages"][0]
    assert stage["validation"] == []
    assert stage["validationRewards"] == [{"step": 3, "reward": 0.3}, {"step": 9, "reward": 0.9}]
    text = run(place.root).stdout
    assert "| held-out reward | 0.3000 to 0.9000 |" in text
    assert "held-out loss" not in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("{tmp}/empty",), "has no history, no checkpoint and no results"),
        (("{tmp}/base", "--price", "-1"), "--price"),
    ],
)
def test_errors_are_one_sentence(words: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    trained(tmp_path, "base")
    (tmp_path / "empty").mkdir()
    shown = run(*(word.format(tmp=tmp_path) for word in words))
    assert shown.exit_code != 0
    assert sentence in shown.stderr
    for option in ("--csv", "--svg"):
        assert (
            "with --chain, give --html, --markdown or --json"
            in run(tmp_path / "base", option, tmp_path / "file").stderr
        )
    plain = CliRunner().invoke(app, ["report", str(tmp_path / "base"), "--price", "2"])
    assert "--markdown and --price need --chain" in plain.stderr
