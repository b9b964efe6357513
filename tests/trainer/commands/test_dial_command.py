"""``halcyon dial`` and ``halcyon show dial``."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from halcyon.commands.main import app

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "nanochat.md"


def test_the_guide_shows_what_its_command_prints() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    command = next(line for line in text.splitlines() if line.startswith("halcyon dial "))
    printed = CliRunner().invoke(app, command.removesuffix(" > run.yaml").split()[1:])
    assert printed.exit_code == 0
    assert f"```yaml\n{printed.stdout}```" in text


def test_each_setting_is_shown_with_its_law() -> None:
    printed = CliRunner().invoke(app, ["show", "dial", "--depth", "24", "--steps", "10", "--json"])
    found = json.loads(printed.stdout)
    assert found["width"] == {"value": 1536, "law": "64 * depth, rounded up to whole heads"}
    assert found["steps"] == {"value": 10, "law": "given"}
    shown = CliRunner().invoke(app, ["show", "dial", "--depth", "24"]).stdout
    assert "1,048,576" in shown
    assert "embedding.*: 10.6066" in shown


def test_settings_that_do_not_fit_end_with_one_sentence() -> None:
    printed = CliRunner().invoke(app, ["dial", "--depth", "24", "--sequence-length", "3000"])
    assert printed.exit_code == 80
    assert printed.stderr.count("\n") == 1
    assert "no whole number of sequences of 3000" in printed.stderr
