"""``halcyon show schedule`` draws what changes from step to step."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from typer.testing import CliRunner

from halcyon.commands.main import app
from halcyon_api.ends import ExitCode
from tests.api.documents import document
from tests.examples.documents import REPOSITORY


def test_curves_in_the_terminal_and_as_json(tmp_path: Path) -> None:
    schedule = {"phases": {"shape": "linear", "warmup": 0.2, "minRatio": 0}}
    others = {"points": [{"at": 0, "weightDecay": 1}, {"at": 1, "weightDecay": 0}]}
    run = tmp_path / "run.yaml"
    run.write_text(
        yaml.safe_dump(
            document(spec__optimizer={"learningRate": 0.5, "schedule": schedule, "otherSchedules": others, "adamw": {}})
        )
    )
    shown = CliRunner().invoke(app, ["show", "schedule", str(run)])
    assert shown.exit_code == ExitCode.DONE, shown.output
    assert "batch size: 8 at each step" in shown.stdout
    assert "momentum: 0.9 at each step" in shown.stdout
    found = json.loads(
        CliRunner().invoke(app, ["show", "schedule", str(run), "--json", "--set", "spec.trainer.batchSize=4"]).stdout
    )
    assert found["steps"] == list(range(1, 11))
    assert [round(rate, 4) for rate in found["learning rate"]] == [
        0.0,
        0.25,
        0.5,
        0.4375,
        0.375,
        0.3125,
        0.25,
        0.1875,
        0.125,
        0.0625,
    ]
    assert [round(decay, 3) for decay in found["weight decay"]] == [
        0.1,
        0.09,
        0.08,
        0.07,
        0.06,
        0.05,
        0.04,
        0.03,
        0.02,
        0.01,
    ]
    assert set(found["batch size"]) == {4}


def test_the_guide_shows_the_output_of_the_command() -> None:
    """Written anew with: halcyon show schedule examples/stdlib-llama.yaml."""
    guide = (REPOSITORY / "docs" / "guides" / "optimizers.md").read_text(encoding="utf-8")
    command, shown = guide.split("```\n$ halcyon ")[1].split("```")[0].split("\n", 1)
    result = CliRunner().invoke(app, [*command.split()[:-1], str(REPOSITORY / command.split()[-1])])
    assert result.stdout.rstrip() == shown.rstrip()
