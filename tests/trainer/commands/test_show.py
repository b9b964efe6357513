"""``halcyon show`` prints what a run would do, without a device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.ends import ExitCode
from halcyon_api.hardware import TABLE
from tests.api.documents import document
from tests.suite.limits import limit
from tests.trainer.tokenizer.texts import trained

pytestmark = pytest.mark.slow


def show(
    run: dict[str, Any], directory: Path, *options: str, command: tuple[str, ...]
) -> subprocess.CompletedProcess[str]:
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    line = [sys.executable, "-m", "halcyon.commands.main", "show", *command, str(path), *options]
    return subprocess.run(line, capture_output=True, text=True, timeout=limit(120), check=False)


@pytest.mark.variant
def test_a_run_is_shown_without_a_compilation(tmp_path: Path) -> None:
    """``halcyon show run.yaml``: the command may be left out, and options may come first."""
    (tmp_path / "tokenizer.json").write_bytes(trained().content)
    run = document(
        spec__accelerator={"type": "v5e", "topology": "2x4", "provisioning": "spot"},
        spec__tokenizer={"tokenizerJson": {"path": str(tmp_path)}},
    )
    ended = show(run, tmp_path, command=("--json",))
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["tokens"], found["steps"], found["devices"], found["mesh"]["fsdp"]) == (10 * 8 * 32, 10, 8, 8)
    assert (found["vocabulary"], found["vocabulary_note"]) == (512, None)
    assert found["device"]["available"] == TABLE["v5e"].memory_bytes


@pytest.mark.variant
def test_the_update_of_every_parameter_is_shown_and_a_group_without_one_is_an_error(tmp_path: Path) -> None:
    groups = [{"match": "*.mlp.*", "frozen": True}, {"roles": ["head"], "rule": "lion"}]
    ended = show(document(spec__optimizer={"adamw": {}, "groups": groups}), tmp_path, "--json", command=("optimizer",))
    assert ended.returncode == 0, ended.stderr
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {row["rule"] for row in rows} == {"adamw", "lion", "frozen"}
    assert all((row["state_bytes"] == 0) is (row["rule"] == "frozen") for row in rows)
    ended = show(
        document(spec__optimizer={"adamw": {}, "groups": [{"match": "*.atention.*"}]}), tmp_path, command=("optimizer",)
    )
    assert ended.returncode == ExitCode.BAD_CONFIGURATION
    assert "spec.optimizer.groups[0]: no parameter has match *.atention.*" in ended.stderr
