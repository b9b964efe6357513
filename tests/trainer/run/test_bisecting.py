"""`halcyon replay --bisect` names the document that makes the loss jump, and computes the steps without it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from halcyon.commands.replay import document_of, places_of, shown
from halcyon.host.errors import BadConfiguration
from halcyon.run.bisecting import Bisected, DocumentLoss, DocumentPlace, bisect
from halcyon.telemetry import RunReporter
from halcyon_api.ends import ExitCode
from tests.document_changes import changed
from tests.trainer.run.test_replay import halcyon, trained
from tests.trainer.support.process_groups import run_document

STEPS, EVERY = 24, 4


def strange(folder: Path) -> Path:
    """A run on short documents of words, of which one is noise, trained to its end."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"text": f"number {number} is one more than {number - 1}, and so on. " * 2} for number in range(1, 240)]
    noise = "".join(chr(one) for one in np.random.default_rng(3).integers(33, 126, 110))
    rows.insert(60, {"text": noise})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = run_document(folder / "root", slices=1, topology="1x2", steps=STEPS, batchSize=4, sequenceLength=256)
    source = {"name": "rows", "jsonl": {"paths": [str(folder / "rows.jsonl")]}}
    changes: dict[str, Any] = {
        "spec.data": {"sources": [source], "order": {"sequential": {}}},
        "spec.checkpoint.save": {"everySteps": EVERY},
        "spec.checkpoint.keep": 10,
        "spec.optimizer.learningRate": 0.02,
        "spec.optimizer.schedule": {"constant": {}},
        "spec.trainer.microbatches": 2,
        "spec.telemetry": {},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(changed(document, changes)))
    trained(path)
    return path


@pytest.mark.slow
def test_the_strange_document_is_named_and_the_loss_without_it_does_not_jump(tmp_path: Path) -> None:
    path = strange(tmp_path)
    history = halcyon("replay", path, "--from", EVERY, "--to", STEPS, "--json")
    assert json.loads(history.stdout)["identical"]
    looked: dict[int, dict[str, Any]] = {}
    for step in range(EVERY + 2, STEPS, 2):
        ended = halcyon("replay", path, "--bisect", step, "--json")
        assert ended.returncode == 0, ended.stderr
        looked[step] = json.loads(ended.stdout)
        documents = looked[step]["documents"]
        for number in (step - 1, step):
            of_step = [one for one in documents if one["place"].startswith(f"{number}:")]
            whole = sum(one["loss"] * one["tokens"] for one in of_step) / sum(one["tokens"] for one in of_step)
            assert whole == pytest.approx(looked[step]["losses"][str(number)], rel=1e-5)
            assert sum(one["raises"] for one in of_step) == pytest.approx(0, abs=1e-5)
        if any(one["loss"] > 1.5 * documents[0]["loss"] for one in documents[1:]):
            break
    worst = max(documents, key=lambda one: one["raises"])
    assert "is one more than" not in worst["text"]
    step = int(worst["place"].partition(":")[0])
    at = max(looked)
    before = looked[at]["losses"][str(step)]
    ended = halcyon("replay", path, "--bisect", at, "--without", worst["place"], "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["losses"][str(step)] < before - 0.5 * worst["raises"]
    said = halcyon("replay", path, "--bisect", at).stdout
    assert worst["place"] in said
    assert f"step {step}: loss {before:.4f}\n" in said
    refused = halcyon("replay", path, "--bisect", at, "--without", f"{step}:999.0")
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (
        ExitCode.BAD_CONFIGURATION,
        f"--without {step}:999.0: the batch of step {step} has no such document",
    )


@pytest.mark.parametrize("word", ["", "7", "7:3", "7:3.", "a:3.2", "7:3.2.1", "-7:3.2", "7:3.²"])
def test_a_document_that_is_named_in_another_way_is_one_sentence(word: str) -> None:
    with pytest.raises(BadConfiguration, match=r"^--without .*: write STEP:ROW\.NUMBER, as the table shows it"):
        places_of([word])


def test_a_document_is_named_as_the_table_shows_it() -> None:
    place = DocumentPlace(1005, 3, 2)
    assert places_of([str(place)]) == [place]


def test_a_text_is_one_line_without_signs_that_a_terminal_obeys() -> None:
    assert shown("a\n\n b\t\x1b[31mred\x07" + "x" * 99) == "a b \ufffd[31mred\ufffd" + "x" * 47


def test_a_loss_that_is_no_number_is_null_in_json() -> None:
    lost = DocumentLoss(DocumentPlace(7, 0, 0), "rows", 3, float("nan"), float("nan"), "a")
    found = document_of(Bisected({6: 2.5, 7: float("inf")}, [lost]), 7)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["losses"], found["documents"][0]["loss"]) == ({"6": 2.5, "7": None}, None)


def test_the_history_of_a_look_is_written_before_its_folder_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def train(_: object, reporter: RunReporter, *__: object, **___: object) -> None:
        reporter.listen(SimpleNamespace(close=waits.append))  # type: ignore[arg-type]

    monkeypatch.setattr("halcyon.run.bisecting.train", train)
    bisect(run_document(tmp_path / "root", slices=1), (1, 2), (), on_cpu=True, say=print)
    assert max(waits) > 1
