"""`kubectl halcyon replay`: the documents of replays, and which steps they have proved."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from halcyon_api.names import LABEL_REPLAY_OF, MAX_RUN_NAME_LENGTH
from halcyon_api.reading import parse_run
from halcyon_cli.cluster import Runs
from halcyon_cli.commands.replays import replay_run
from halcyon_cli.replays import pieces, proved, replay_of
from tests.cli.api_server import Server
from tests.operator.builders import run as document

WHOLE = {
    "from": {"huggingFace": {"path": "hf://some/model"}},
    "export": {"everySteps": 50},
    "budget": {"chipHours": 1},
    "scheduling": {"queue": {"name": "main"}, "priorityClassName": "high"},
    "recovery": {"audit": {"everySteps": 5}, "maxRestarts": 7},
    "checkpoint": {"root": "s3://bucket/demo/", "endpoint": "http://store:7070", "keep": 9},
    "telemetry": {"sample": {"prompt": "A", "everySteps": 10}},
}


def whole(name: str = "demo", **changes: Any) -> dict[str, Any]:
    found = document()
    found["metadata"] |= {"name": name, "namespace": "team"}
    found["spec"] |= WHOLE | changes
    parse_run(found)
    return found


def test_a_replay_has_the_numbers_of_the_run_and_does_nothing_else() -> None:
    run = whole()
    made = replay_of(run, (1000, 1250), "spare", None)
    spec = parse_run(made).spec
    assert (made["metadata"]["name"], made["metadata"]["namespace"]) == ("demo-replay-1000-1250", "team")
    assert made["metadata"]["labels"] == {LABEL_REPLAY_OF: "demo"}
    assert spec.task == "replay"
    assert spec.origin is not None
    assert (spec.origin.run, spec.origin.step, spec.origin.to_step) == ("demo", 1000, 1250)
    assert (spec.origin.root, spec.checkpoint.root) == ("s3://bucket/demo/", "s3://bucket/demo-replay-1000-1250")
    assert spec.data.cache.root == "s3://bucket/demo/data"
    assert spec.checkpoint.endpoint == "http://store:7070"
    assert (spec.export, spec.budget, spec.recovery.audit, spec.telemetry.sample) == (None, None, None, None)
    assert spec.recovery.max_restarts == 7
    assert spec.scheduling.queue is not None
    assert (spec.scheduling.queue.name, spec.scheduling.priority_class_name) == ("spare", "high")
    for section in ("model", "optimizer", "accelerator"):
        assert made["spec"].get(section) == run["spec"].get(section)
    assert parse_run(run).spec.trainer == spec.trainer


def test_the_name_of_a_replay_of_a_long_name_is_valid() -> None:
    made = replay_of(whole("a" * MAX_RUN_NAME_LENGTH), (1000, 1250), None, "low")
    assert len(parse_run(made).metadata.name) <= MAX_RUN_NAME_LENGTH
    assert made["spec"]["scheduling"] == {"queue": {"name": "main"}, "priorityClassName": "low"}


@pytest.mark.parametrize(
    ("first", "to", "wanted"),
    [
        (None, None, [(0, 50), (50, 100), (100, 170)]),
        (50, None, [(50, 100), (100, 170)]),
        (10, 100, [(50, 100)]),
        (100, 160, []),
    ],
)
def test_pieces_lie_between_neighbouring_checkpoints(
    first: int | None, to: int | None, wanted: list[tuple[int, int]]
) -> None:
    assert pieces([170, 100, 0, 50], first, to) == wanted


def replay(first: int, last: int | None, phase: str, step: int = 0) -> dict[str, Any]:
    origin = {"run": "demo", "step": first} | ({} if last is None else {"toStep": last})
    status = {"phase": phase, "progress": {"step": step}}
    return {"metadata": {"name": f"demo-replay-{first}"}, "spec": {"from": origin}, "status": status}


def test_only_succeeded_replays_prove_steps() -> None:
    found = [
        replay(100, 150, "Succeeded", step=150),
        replay(0, None, "Succeeded", step=50),
        replay(50, 100, "Failed"),
        replay(150, None, "Succeeded", step=170),
        replay(120, 140, "Succeeded", step=300),
        replay(200, 250, "Succeeded"),
        replay(170, 200, "Running"),
    ]
    assert list(proved(found)) == [(0, 50), (100, 170)], "a replay without a report of its steps proves none"
    assert list(proved([])) == []


def test_the_command_creates_a_replay_and_says_what_is_proved(
    server: Server, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    server.run = whole()
    replay_run("demo", first=1000, queue="spare")
    (made,) = server.created
    assert (made["metadata"]["name"], made["spec"]["from"]["step"]) == ("demo-replay-1000", 1000)
    assert "toStep" not in made["spec"]["from"]
    server.run = made | {"status": {"phase": "Succeeded", "progress": {"step": 1250}}}
    replay_run("demo")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "demo-replay-1000 computes the steps after 1000 again"
    assert said[-1] == "proved: steps 1001 to 1250"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": "data", "from": None}, "run demo has task data, so it has no steps to compute again"),
        (
            {"checkpoint": {"root": "file:///volume/demo", "volumeClaim": "volume"}},
            "only the pods of run demo mount its root file:///volume/demo; replay it with `halcyon replay` on a machine "
            "that mounts the volume",
        ),
    ],
)
def test_a_run_that_cannot_be_replayed_gets_one_sentence(
    server: Server, runs: Runs, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], sentence: str
) -> None:
    found = whole()
    found["spec"] = {name: value for name, value in (found["spec"] | changes).items() if value is not None}
    server.run = found
    with pytest.raises(typer.Exit):
        replay_run("demo", first=1000)
    assert capsys.readouterr().err == f"{sentence}\n"
    assert not server.created
