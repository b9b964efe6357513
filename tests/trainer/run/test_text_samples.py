"""`telemetry.sample`: what the model writes as it learns, in the log and in the history."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.store import Store
from halcyon.parallel.process_group import ProcessGroup
from halcyon.run.features.text_samples import MOST_CHARACTERS, TextSamples, seed_of
from halcyon.telemetry.history.reading import read_history
from halcyon.tokenizer import BYTE, load
from halcyon_api.ends import ExitCode
from halcyon_api.printable import harmless
from halcyon_api.reading import parse_run
from tests.trainer.run.test_resume import seen_step
from tests.trainer.support.process_groups import run_document, start_processes


def test_a_prompt_that_leaves_no_room_is_refused_at_the_start(tmp_path: Path) -> None:
    document = run_document(tmp_path / "root", sequenceLength=8)
    document["spec"]["telemetry"]["sample"] = {"prompt": "Once upon a time", "everySteps": 10}
    spec = parse_run(document).spec
    assert spec.telemetry.sample is not None
    place: Any = SimpleNamespace(spec=spec, processes=ProcessGroup(0, 1), root=lambda: Store(spec.checkpoint))
    with pytest.raises(
        BadConfiguration, match=r"spec\.telemetry\.sample\.prompt has \d+ tokens, and the model takes 8"
    ):
        TextSamples(spec.telemetry.sample, Mock(place=place, tokenizer=load(BYTE)))


def test_the_seed_of_a_text_is_a_function_of_seed_and_step() -> None:
    assert seed_of(1, 10) == seed_of(1, 10)
    assert len({seed_of(seed, step) for seed in range(4) for step in range(4)}) == 16


def test_a_text_cannot_control_a_terminal() -> None:
    assert harmless("a\x1b[2J\tb\n\u202ec\x00é") == "a\ufffd[2J\tb\n\ufffdc\ufffdé"


@pytest.mark.slow
def test_a_run_writes_the_same_texts_after_a_kill_and_has_the_losses_of_a_run_without_texts(tmp_path: Path) -> None:
    plain = start_processes(
        run_document(tmp_path / "plain", slices=2, topology="1x2", steps=15), tmp_path / "plain-log"
    )
    assert set(plain.wait()) == {ExitCode.DONE}, plain.leader.noise[-20:]
    document = run_document(tmp_path / "root", slices=2, topology="1x2", steps=15)
    prompt = "3 times 4 is \x1b[2J"
    document["spec"]["telemetry"]["sample"] = {"prompt": prompt, "everySteps": 4}
    first = start_processes(document, tmp_path / "first-log")
    first.leader.wait_for(
        lambda events: seen_step(9)(events) and any(event.get("event") == "checkpoint" for event in events)
    )
    first.reap()
    second = start_processes(document, tmp_path / "second-log", restart=1)
    assert set(second.wait()) == {ExitCode.DONE}, second.leader.noise[-20:]

    assert first.leader.losses() | second.leader.losses() == plain.leader.losses()
    texts = [
        {event["step"]: event["text"] for event in group.leader.events if event["event"] == "sample"}
        for group in (first, second)
    ]
    assert {4, 8} <= set(texts[0])
    assert {12, 15} <= set(texts[1]) <= {8, 12, 15}
    assert all(texts[1].get(step, text) == text for step, text in texts[0].items())
    assert all(0 < len(text) <= MOST_CHARACTERS + 2 for text in {**texts[0], **texts[1]}.values())
    found = read_history(Store(parse_run(document).spec.checkpoint))
    assert [(row["step"], row["prompt"]) for row in found.samples if row["step"] > 5] == [
        (step, harmless(prompt)) for step in (8, 12, 15)
    ]
    steps = [json.loads((tmp_path / name / "HEAD").read_text())["committed"] for name in ("root", "plain")]
    assert [[one["step"] for one in committed] for committed in steps] == [[15, 10], [15, 10]]
    events = [event for group in (first, second) for process in group.processes for event in process.events]
    assert not [event for event in events if event["event"] == "warning"]
