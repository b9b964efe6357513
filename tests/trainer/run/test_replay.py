"""`halcyon replay` computes steps again from a checkpoint: the same bits, or the first step that differs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.ends import ExitCode
from tests.document_changes import changed
from tests.families import SMALL_FAMILIES
from tests.suite.limits import limit
from tests.trainer.support.process_groups import run_document

pytestmark = pytest.mark.slow

STEPS, EVERY = 20, 5


def run(folder: Path, **changes: Any) -> Path:
    """A run document with all its checkpoints kept."""
    document = run_document(folder / "root", slices=1, steps=STEPS, batchSize=4, sequenceLength=32)
    wanted = {"spec.checkpoint.keep": 10, "spec.telemetry": {}} | changes
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(changed(document, wanted)))
    return path


def halcyon(
    *words: object, module: str = "halcyon.commands.main", **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, words)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=limit(180),
        check=False,
    )


def trained(path: Path, **variables: str) -> None:
    module = "tests.trainer.support.faulty_child" if variables else "halcyon.commands.main"
    ended = halcyon("train", path, "--json", module=module, **variables)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]


def replayed(path: Path, *words: object) -> tuple[int, dict[str, Any]]:
    ended = halcyon("replay", path, "--json", *words)
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def test_a_replay_has_the_bits_of_the_run_and_leaves_its_root_as_it_is(tmp_path: Path) -> None:
    path = run(tmp_path)
    trained(path)
    files = {one: one.stat().st_mtime_ns for one in (tmp_path / "root").rglob("*") if one.is_file()}
    code, found = replayed(path, "--from", EVERY)
    assert (code, found["identical"], found["to"]) == (0, True, 2 * EVERY)
    assert (found["comparedSteps"], found["stateCompared"], found["differentArrays"]) == (EVERY, True, [])
    code, found = replayed(path, "--from", EVERY, "--to", STEPS - 2)
    assert (code, found["comparedSteps"], found["stateCompared"]) == (0, STEPS - 2 - EVERY, False)
    record, statement = tmp_path / "replay.json", tmp_path / "statement.json"
    code, found = replayed(path, "--from", EVERY, "--record", record)
    assert (code, json.loads(record.read_text())) == (0, found)
    proved = halcyon("prove", path, "--replay", record, "--output", statement)
    assert (proved.returncode, proved.stderr) == (0, "")
    checked = halcyon("prove", path, "--check", statement)
    verdict = f"steps {EVERY + 1} to {2 * EVERY} were replayed on {found['hardware']} at {found['time']}: identical"
    assert (checked.returncode, verdict in checked.stdout) == (0, True), checked.stdout
    assert {one: one.stat().st_mtime_ns for one in (tmp_path / "root").rglob("*") if one.is_file()} == files


@pytest.mark.parametrize("lie", [7, 10])
def test_a_replay_finds_the_step_after_which_one_bit_was_wrong(lie: int, tmp_path: Path) -> None:
    path = run(tmp_path)
    trained(path, FAULT="parameter", FAULT_STEP=str(lie))
    for first in range(EVERY, STEPS, EVERY):
        code, found = replayed(path, "--from", first)
        within = first < lie <= first + EVERY
        assert (code, found["identical"]) == ((1, False) if within else (0, True)), first
        if within:
            assert found["firstDifferentStep"] == (lie + 1 if lie < first + EVERY else None)
            assert found["differentArrays"]
    said = halcyon("replay", path, "--from", (lie - 1) // EVERY * EVERY)
    assert said.stdout.startswith(f"different: steps {(lie - 1) // EVERY * EVERY + 1} to ")


@pytest.mark.variant
@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_every_family_replays_and_its_audits_find_nothing(family: str, tmp_path: Path) -> None:
    """An audit that found something would end the training with another exit code."""
    parts = {"spec.accelerator.topology": "1x2", "spec.mesh": {"ici": {"data": 2, "fsdp": 1}}}
    audited = {"spec.recovery": {"audit": {"everySteps": EVERY}}}
    path = run(tmp_path, **parts, **audited, **{"spec.model": {family: SMALL_FAMILIES[family]}})
    trained(path)
    code, found = replayed(path, "--from", EVERY)
    assert (code, found["identical"], found["differentArrays"]) == (0, True, [])


def test_a_replay_of_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    path = run(tmp_path, **{"spec.trainer.steps": EVERY})
    trained(path)
    for words, sentence in (
        (("--from", 3), f"file://{tmp_path}/root has no checkpoint of step 3; there are 5"),
        (("--from", EVERY), f"--from 5: file://{tmp_path}/root has no later checkpoint; name the last step with --to"),
    ):
        ended = halcyon("replay", path, *words)
        assert (ended.returncode, ended.stderr) == (ExitCode.BAD_CONFIGURATION, f"{sentence}\n")
