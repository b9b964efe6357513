"""`halcyon report`, `status` and `compare` of a checkpoint root, from its history alone."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html import unescape
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from typer.testing import CliRunner, Result

from halcyon.telemetry.events import EVENTS
from halcyon.telemetry.history.background import Row
from halcyon_cli.curves import moving_mean
from halcyon_cli.history_view import event_sentence
from halcyon_cli.kubectl import app as kubectl
from halcyon_cli.main import app
from halcyon_cli.roots import is_root
from halcyon_demo.documents import EXAMPLES
from tests.cli.api_server import Server
from tests.trainer.telemetry.history.rows import Recorder, group, root, row


def numbers(first: int, last: int, scale: float = 1.0) -> list[Row]:
    return [
        row(step, scale * 8 / step, gradient_norm=1.5, learning_rate=0.001, tokens_per_second=100.0)
        for step in range(first, last + 1)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A root whose run was killed at step 30, resumed at step 20, and ended at step 40."""
    folder = tmp_path / "root"
    store = root(folder)
    first = Recorder(store.place, group(1, writer="a"), seconds=30.0)
    first.flush(numbers(1, 30))
    second = Recorder(store.place, group(1, resumed=20, attempt=2, writer="b", began=2000.0), seconds=20.0)
    second.flush([Row("restored", 2001.0, {"step": 20, "path": "steps/x/", "seconds": 0.5}), *numbers(21, 40)])
    second.flush([Row("evaluation", 2100.0, {"step": 40, "loss": 0.25, "bits_per_byte": 0.5, "seconds": 1.0})])
    second.flush([Row("task", 2099.0, {"step": 40, "task": "gsm8k", "accuracy": 0.125, "standard_error": 0.0625})])
    second.flush([Row("done", 2101.0, {"step": 40, "message": "all 40 steps are <done>"})])
    return folder


def run(*words: object, application: object = app) -> Result:
    return CliRunner().invoke(application, [str(word) for word in words], env={"COLUMNS": "200"})  # type: ignore[arg-type]


def test_a_name_that_is_no_formula_is_drawn_as_it_is(tmp_path: Path) -> None:
    name = r"a $\frac{$ _b_ <c> & d"
    store = root(tmp_path / "root")
    Recorder(store.place, replace(group(1, writer="a"), run=name), seconds=30.0).flush(numbers(1, 30))
    picture = tmp_path / "picture.svg"
    ended = run("report", tmp_path / "root", "--svg", picture, "--html", tmp_path / "page.html")
    assert ended.exit_code == 0, ended.output
    assert name in unescape(picture.read_text())


def test_a_run_without_gradient_norms_that_started_twice_is_drawn(tmp_path: Path) -> None:
    store = root(tmp_path / "root")
    Recorder(store.place, group(1, writer="a"), seconds=30.0).flush([row(1), row(2)])
    Recorder(store.place, group(2, resumed=1, writer="b"), seconds=30.0).flush([row(2)])
    ended = run("report", tmp_path / "root", "--svg", tmp_path / "picture.svg")
    assert ended.exit_code == 0, ended.output


def test_the_report_of_a_root_counts_repeated_steps_as_lost(folder: Path) -> None:
    for application in (app, kubectl):
        shown = run("report", folder, application=application)
        assert shown.exit_code == 0, shown.output
        assert "complete, 80.0% goodput of 50.0 s" in shown.stdout
        assert "all 40 steps are <done>" in shown.stdout
        assert re.search(r"gsm8k +40 +0\.1250 +0\.0625", shown.stdout)
    found = json.loads(run("report", folder, "--json").stdout)
    assert (found["lostSteps"], found["restarts"], found["seconds"]["lostWork"]) == (10, 1, 10.0)
    assert [one["name"] for one in found["processGroups"]] == ["1.0", "2.0"]
    assert [one["step"] for one in found["history"]["steps"]] == list(range(1, 41))
    assert found["stoppedSeconds"] == 500.0


def test_a_report_says_what_was_left_out(tmp_path: Path) -> None:
    recorder = Recorder(root(tmp_path / "root").place, group(1, writer="a"), seconds=30.0)
    pairs = {"source": "pairs", "rows": 9, "message": "source pairs leaves out 2 rows without text"}
    recorder.flush(
        [
            Row("source", 1.0, {**pairs, "message": "of an earlier start"}),
            Row("source", 2.0, pairs),
            *(Row("skipped", 3.0, {"step": step, "reason": "the loss is not a number"}) for step in (3, 7)),
            Row("rolledBack", 4.0, {"step": 9, "to_step": 5, "batches": 4, "reason": "the loss is not a number"}),
            *numbers(1, 30),
        ]
    )
    page = tmp_path / "page.html"
    shown = run("report", tmp_path / "root", "--html", page)
    assert shown.exit_code == 0, shown.output
    for sentence in (pairs["message"], "the updates of 2 steps were dropped", "4 batches left out after a return"):
        assert sentence in shown.stdout
        assert sentence in page.read_text()
    assert re.findall("left out +(.+?) *$", shown.stdout, re.MULTILINE)[0] == pairs["message"]


def test_the_steps_as_csv_have_the_evaluations(folder: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(run("report", folder, "--csv", "-").stdout)))
    assert [int(line["step"]) for line in lines] == list(range(1, 41))
    assert (lines[-1]["validationLoss"], lines[-1]["bitsPerByte"], lines[0]["validationLoss"]) == ("0.25", "0.5", "")
    assert float(lines[7]["loss"]) == 1.0


def test_the_pictures_and_the_page_are_complete_files(folder: Path, tmp_path: Path) -> None:
    svg, html, both = tmp_path / "run.svg", tmp_path / "run.html", tmp_path / "both.svg"
    assert run("report", folder, "--svg", svg, "--html", html).exit_code == 0
    picture = ET.fromstring(svg.read_text())  # noqa: S314 - our own file
    assert {"learning rate", "tokens per second"} <= {
        element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")
    }
    assert "$" not in svg.read_text(), "numbers of a logarithmic axis are no formulas"
    page = html.read_text()
    assert page.count("<svg") == 2
    policy = re.search(r"script-src '(sha256-[^']+)'", page)
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    assert policy is not None
    assert policy[1] == f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"
    panels = json.loads(page.partition('<script type="application/json">')[2].partition("</script>")[0])
    assert [panel["title"] for panel in panels] == ["loss", "gradient norm", "learning rate", "tokens per second"]
    assert panels[0]["curves"][0]["steps"] == list(range(1, 41))
    assert panels[0]["curves"][0]["values"][7] == 1.0
    assert "all 40 steps are &lt;done&gt;" in page
    cells = "\n".join(f'<td style="text-align:right">{cell}</td>' for cell in ("40", "0.1250"))
    assert f"<td>gsm8k</td>\n{cells}" in page
    assert "http://" not in page.replace("http://www.w3.org/", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    compared = run("compare", folder, folder, "--svg", both)
    assert compared.exit_code == 0, compared.output
    assert "loss at 40" in compared.stdout
    assert both.read_text().count(str(folder)) >= 2  # equal names: the roots tell the runs apart


def test_a_run_that_samples_has_curves_of_reward_and_mismatch(tmp_path: Path) -> None:
    store, page = root(tmp_path / "root"), tmp_path / "run.html"
    sampled = [row(step, 1.0, reward=step / 8, mismatch_max=0.0) for step in range(1, 9)]
    Recorder(store.place, group(1, writer="a"), seconds=30.0).flush(sampled)
    assert run("report", tmp_path / "root", "--html", page).exit_code == 0
    panels = json.loads(page.read_text().partition('<script type="application/json">')[2].partition("</script>")[0])
    assert [panel["curves"][0]["values"][-1] for panel in panels[4:]] == [1.0, 0.0]


def test_a_comparison_says_what_it_has_not_compared(folder: Path, tmp_path: Path) -> None:
    """A step that one history lacks has no loss beside that of another run, and no document is the same as another."""
    store = root(tmp_path / "other")
    recorder = Recorder(store.place, replace(group(1, writer="a"), run="other"), seconds=30.0)
    recorder.flush(numbers(1, 10, scale=2.0))
    recorder.flush(numbers(11, 40, scale=2.0))
    shown = run("compare", folder, tmp_path / "other")
    assert re.search(r"loss at 40.*\n.*\b0\.2000 +0\.2000 ", shown.stdout), shown.stdout
    assert shown.stdout.count("no checkpoint has recorded its document, so its fields are not compared") == 2
    assert [one["differs"] for one in json.loads(run("compare", folder, folder, "--json").stdout)] == [None, None]
    _, second = sorted((tmp_path / "other" / "metrics").glob("*"))
    second.write_bytes(b"damaged")
    damaged = run("compare", folder, tmp_path / "other").stdout
    assert "loss at 10" in damaged
    assert f"other: not read: metrics/{second.name}" in damaged
    assert second.name in json.loads(run("status", tmp_path / "other", "--output", "json").stdout)["damages"][0]


def test_a_page_without_matplotlib_has_a_sentence_in_place_of_its_curves(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = tmp_path / "page.html"
    assert run("report", folder, "--html", page).exit_code == 0
    assert "a picture of curves needs matplotlib; install it with" in page.read_text()
    assert "<h2>Time</h2>" in page.read_text()


@pytest.mark.usefixtures("runs")
def test_runs_in_the_cluster_are_compared_by_their_names(folder: Path, tmp_path: Path, server: Server) -> None:
    document = yaml.safe_load((EXAMPLES / "local-llama.yaml").read_text())
    del document["spec"]["checkpoint"]["root"]
    values = {"checkpoint.rootPrefix": json.dumps(folder.parent.parent.as_uri())}
    metadata = {"name": folder.name, "namespace": folder.parent.name}
    server.run = document | {"metadata": metadata, "status": {"attempt": 1, "defaults": {"values": values}}}
    svg = tmp_path / "both.svg"
    shown = run("compare", folder.name, folder, "--svg", svg, application=kubectl)
    assert shown.exit_code == 0, shown.output
    assert "loss at 40" in shown.stdout
    assert svg.exists()
    server.run = None
    missing = run("compare", "small", folder, application=kubectl)
    assert missing.exit_code == 1
    assert "small" in missing.stderr


def test_the_status_of_a_root(folder: Path) -> None:
    shown = run("status", folder)
    assert shown.exit_code == 0, shown.output
    assert "40 of 100 steps" in shown.stdout
    assert "2, 10 steps repeated" in shown.stdout
    assert "restarts" not in shown.stdout
    found = json.loads(run("status", folder, "--output", "json").stdout)
    assert (found["run"], found["step"], found["complete"]) == ("tiny", 40, True)
    assert run("status", folder, "--watch").exit_code == 0, "a run that has ended is shown once"


def test_errors_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, sentence in (
        (("report", tmp_path / "empty"), "has no history"),
        (("compare", "absent.yaml"), "absent.yaml"),
        (("report", "some-run", "--csv", "-"), "--html and --csv need the checkpoint root of run some-run"),
    ):
        result = run(*words)
        assert result.exit_code != 0
        assert sentence in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_a_name_of_a_run_is_no_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    assert not is_root("notes")
    (tmp_path / "notes" / "HEAD").touch()
    assert all(map(is_root, ("notes", "./notes", "run.yaml", "s3://bucket/run", "~/runs/notes")))


def test_names_and_texts_in_the_page_are_no_markup_and_no_script(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    store = root(tmp_path / "root")
    recorder = Recorder(store.place, replace(group(1, writer="a"), run=hostile), seconds=30.0)
    recorder.flush(numbers(1, 300))
    recorder.flush(
        [
            Row("sample", 2.0, {"step": 300, "prompt": hostile, "text": hostile}),
            Row("warning", 3.0, {"message": hostile}),
            Row("task", 3.0, {"step": 300, "task": hostile, "accuracy": 0.5}),
        ]
    )
    assert run("report", tmp_path / "root", "--html", tmp_path / "page.html").exit_code == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("<script") == 2
    assert "<img" not in page
    for words in ("What the model writes", "&lt;img src=x", "the mean of 6 kept steps"):
        assert words in page


def test_every_event_of_the_history_is_a_short_sentence() -> None:
    """No event shows its fields as they are stored."""
    values = {"parameters": ["a", "b"], "values": [1.0], "passAt": {"1": 0.5}, "kernels": [], "collectives": []}
    words = [
        "source",
        "task",
        "tag",
        "path",
        "reason",
        "message",
        "of",
        "statistic",
        "prompt",
        "text",
        "plan",
        "implementation",
        "determinism",
    ]
    for event in EVENTS:
        if event.name in {"tokenized", "evaluating", "start", "joined", "step"}:
            continue  # not in the events of a history
        fields = {name: values.get(name, name if name in words else 3) for name in event.fields}
        sentence = event_sentence({"event": event.name, "time": 1.0, "attempt": 1, "restart": 0, **fields})
        assert sentence != event.name
        assert not re.match(rf"{event.name}: (\w+ ){{2,}}", sentence) or event.name in ("attention", "plan"), sentence
        assert 0 < len(sentence) < 200, sentence


def test_the_moving_mean_follows_the_values() -> None:
    assert moving_mean([1.0, 3.0, 5.0]) == [1.0, 2.0, 4.0]
