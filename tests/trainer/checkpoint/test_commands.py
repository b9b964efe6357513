"""``halcyon checkpoints`` and ``halcyon doctor`` on real roots, also while a run trains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from halcyon.commands.main import app
from halcyon.telemetry.history.segments import SegmentName, encode_segment
from halcyon_api.checkpoint_documents import Owner
from halcyon_api.ends import ExitCode
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.trainer.checkpoint.helpers import (
    Root,
    epoch,
    fill,
    mesh,
    numbers,
    on,
    open_root,
    restore_newest,
    same_bits,
    save_step,
    template,
    with_keep,
)
from tests.trainer.telemetry.history.rows import Recorder, group, row, steps


def run(root: Root, *words: str) -> Result:
    """Run a command on a root; with the endpoint, if the root is on S3."""
    place = [root.spec.root] if words[0] != "copy" else [root.spec.root, words[1]]
    rest = words[1:] if words[0] != "copy" else words[2:]
    endpoint = ["--endpoint", root.spec.endpoint] if root.spec.endpoint else []
    head = ["doctor"] if words[0] == "doctor" else ["checkpoints", words[0]]
    return CliRunner().invoke(app, [*head, *place, *rest, *endpoint], env={"COLUMNS": "300"})


def words_of(result: Result) -> list[list[str]]:
    return [line.split() for line in result.stdout.splitlines()]


def changed(step: int) -> dict[str, jax.Array]:
    """The state of step 1 with one element of one array changed."""
    arrays: dict[str, Any] = numbers(1)
    arrays["bias"] = arrays["bias"].copy()
    arrays["bias"][3] += np.float32(step)
    return on(mesh(2, 2), arrays)


def test_list_shows_which_checkpoints_can_be_restored_and_why_others_cannot(root: Root) -> None:
    fill(with_keep(root, 4), 1, 2, 3)
    newest = root.folder / root.head["committed"][0]["path"]
    data = next(path for path in (newest / "data" / "weight").rglob("*") if path.is_file() and path.name != "zarr.json")
    data.write_bytes(data.read_bytes()[:-1] + b"\0")
    with open_root(with_keep(root, 4)) as checkpointer:
        restore_newest(checkpointer)
    shutil.copytree(newest, root.folder / "steps" / "000000000009.000001.stray-0")
    listed = run(root, "list")
    assert listed.exit_code == 0
    rows = {row[0]: " ".join(row[1:]) for row in words_of(listed) if row}
    assert rows["2"].endswith("newest")
    assert "damaged: data/weight/c/" in rows["3"]
    assert "does not have the hash that the manifest names" in rows["3"]
    assert rows["steps/000000000009.000001.stray-0/"] == "not committed"
    document = json.loads(run(root, "list", "--json").stdout)
    assert [entry["step"] for entry in document["head"]["committed"]] == [2, 1]


def test_show_names_every_array(file_root: Root) -> None:
    fill(file_root, 7)
    shown = run(file_root, "show")
    assert shown.exit_code == 0
    assert "56 sequences, 3,584 tokens seen" in shown.stdout
    rows = {row[0]: row[1:] for row in words_of(shown) if row}
    assert rows["weight"][:3] == ["float32", "16", "8"]
    assert rows["half"][0] == "bfloat16"
    assert rows.keys() >= numbers(7).keys()
    document = json.loads(run(file_root, "show", "--json").stdout)
    assert document["entry"]["step"] == document["manifest"]["step"] == 7
    assert {leaf["path"] for leaf in document["manifest"]["leaves"]} == numbers(7).keys()
    missing = run(file_root, "show", "--step", "8")
    assert missing.exit_code == ExitCode.BAD_CONFIGURATION
    assert missing.stderr.endswith("has no checkpoint of step 8; there are 7\n")


def test_verify_does_not_say_what_a_damaged_head_lists(file_root: Root) -> None:
    fill(file_root, 1)
    assert "HEAD: it lists every committed checkpoint" in run(file_root, "verify").stdout
    (file_root.folder / "HEAD").write_bytes(b"{")
    result = run(file_root, "verify")
    assert (result.exit_code, "it lists" in result.stdout) == (ExitCode.FAILURE, False)
    found = json.loads(run(file_root, "verify", "--json").stdout)
    assert (found["intact"], len(found["problems"]["HEAD"])) == (False, 1)


def test_verify_reads_every_byte(file_root: Root) -> None:
    fill(file_root, 1, 2)
    assert run(file_root, "verify", "--all").exit_code == 0
    older = file_root.folder / file_root.head["committed"][1]["path"] / "data" / "half" / "zarr.json"
    older.write_bytes(older.read_bytes() + b" ")
    assert run(file_root, "verify").exit_code == 0
    result = run(file_root, "verify", "--all")
    assert result.exit_code == ExitCode.FAILURE
    assert "step 1: 1 problem" in result.stdout
    assert "data/half/zarr.json has" in result.stdout
    found = json.loads(run(file_root, "verify", "--json").stdout)
    assert found["intact"] is True
    assert found["checkpointsNotRead"] == 1
    assert not any(found["problems"].values())
    result = run(file_root, "verify", "--all", "--json")
    assert result.exit_code == ExitCode.FAILURE
    found = json.loads(result.stdout)
    assert found["intact"] is False
    (problem,) = found["problems"]["step 1"]
    assert problem.startswith("data/half/zarr.json has")


def test_verify_and_gc_know_the_history(file_root: Root) -> None:
    fill(file_root, 1)
    Recorder(file_root.spec, group(1)).flush([row(1)])
    (segment,) = (file_root.folder / "metrics").glob("*.zst")
    name = SegmentName(1, 8, 1, 1, "w1")
    merged = file_root.folder / name.key
    data = encode_segment(name, {group(1): steps(1, 1)})
    merged.write_bytes(data)  # as if a merge had been killed before it deleted its sources
    assert "history: 1 file with 1 step; no link covers 1 file (steps 1 to 1) yet" in run(file_root, "verify").stdout
    assert segment.name in run(file_root, "gc", "--dry-run").stdout
    assert segment.exists()
    run(file_root, "gc")
    assert not segment.exists()
    merged.write_bytes(data[:-1])
    result = run(file_root, "verify")
    assert result.exit_code == ExitCode.FAILURE
    assert "history: 1 problem" in result.stdout


def test_diff_names_the_arrays_and_the_number_of_differing_values(file_root: Root) -> None:
    fill(file_root, 1, make=lambda step: on(mesh(2, 2), numbers(step)))
    fill(file_root, 2, make=changed)
    same = run(file_root, "diff", "1", "1")
    assert (same.exit_code, "bit for bit" in same.stdout) == (0, True)
    result = run(file_root, "diff", "1", "2")
    assert result.exit_code == ExitCode.FAILURE
    rows = [row for row in words_of(result) if row and row[0] in numbers(0)]
    assert rows == [["bias", "values", "1", "of", "8", "2"]]
    result = run(file_root, "diff", "1", "2", "--json")
    assert result.exit_code == ExitCode.FAILURE
    (array,) = [one for one in json.loads(result.stdout)["differences"] if one["path"] == "bias"]
    assert array.pop("largest") == pytest.approx(2)
    assert array == {"path": "bias", "what": "values", "elements": 1, "of": 8}


def test_diff_of_different_steps_has_arrays_of_one_number_too(file_root: Root) -> None:
    fill(with_keep(file_root, 4), 1, 2)
    result = run(file_root, "diff", "1", "2")
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == ExitCode.FAILURE, result.output
    rows = {row[0]: " ".join(row[1:]) for row in words_of(result) if row}
    assert {"step", "scale", "bias"} <= rows.keys()


def test_diff_of_other_chunks_and_other_arrays(file_root: Root) -> None:
    fill(file_root, 1)
    arrays = {name: jax.device_put(array) for name, array in numbers(1).items() if name != "flags"}
    arrays["scale"] = arrays["scale"][None]
    fill(file_root, 2, make=lambda step: arrays)
    rows = {row[0]: " ".join(row[1:]) for row in words_of(run(file_root, "diff", "1", "2")) if row}
    assert rows["flags"] == "only in the first"
    assert rows["scale"] == "shape [] in the first, [1] in the second"
    assert not rows.keys() & {"bias", "weight", "half", "counts"}  # equal numbers in other chunks are not a difference


def test_a_pinned_checkpoint_is_kept_while_the_run_saves_new_ones(root: Root) -> None:
    with open_root(with_keep(root, 2), epoch=epoch(3)) as checkpointer:

        def save(*steps: int) -> list[int]:
            for step in steps:
                save_step(checkpointer, step)
                checkpointer.finish()
            return [entry["step"] for entry in root.head["committed"]]

        assert save(1, 2) == [2, 1]
        assert run(root, "pin", "--step", "1").exit_code == 0
        assert save(3, 4, 5) == [5, 4, 1]
        assert "pinned" in next(" ".join(row) for row in words_of(run(root, "list")) if row and row[0] == "1")
        assert run(root, "verify", "--step", "1").exit_code == 0
        assert run(root, "unpin", "--step", "1").exit_code == 0
        assert save(6) == [6, 5]
    assert root.head["epoch"] == {"attempt": 3, "restart": 0}


def test_gc_keeps_the_files_that_the_current_writer_is_writing(root: Root) -> None:
    fill(root, 1, 2)
    steps = root.folder / "steps"
    dead, alive = steps / "000000000003.000001.dead-0", steps / f"000000000003.000001.{root.head['writer']}-9"
    for folder in (dead, alive):
        shutil.copytree(root.folder / root.head["committed"][0]["path"], folder)
        (folder / "COMMIT").unlink()  # the mark of a writer comes last
    tried = run(root, "gc", "--dry-run")
    assert "steps/000000000003.000001.dead-0/" in tried.stdout
    listed = json.loads(run(root, "gc", "--dry-run", "--json").stdout)
    assert listed["deleted"] is False
    assert "would be deleted" in tried.stdout
    assert "steps/000000000003.000001.dead-0/" in {one["path"] for one in listed["garbage"]}
    assert dead.exists()
    done = run(root, "gc")
    assert done.exit_code == 0
    assert "would be" not in done.stdout
    assert not any(path.is_file() for path in dead.rglob("*"))
    assert alive.exists()
    assert run(root, "verify", "--all").exit_code == 0


def test_another_run_can_continue_from_a_copied_root(root: Root, tmp_path: Path) -> None:
    fill(root, 1, 2, epoch=epoch(5))
    copy = Root(CheckpointSpec(root=f"file://{tmp_path}/copy"), tmp_path / "copy")
    result = run(root, "copy", copy.spec.root, "--step", "1", "--run", "elsewhere/other")
    assert result.exit_code == 0, result.stderr
    assert run(copy, "verify", "--all").exit_code == 0
    with open_root(copy, owner=Owner(namespace="elsewhere", name="other"), epoch=epoch(1)) as checkpointer:
        restored = checkpointer.restore(template(mesh(1, 1)))
        assert restored is not None
        assert same_bits(restored.state, numbers(1))
        save_step(checkpointer, 2)
        checkpointer.finish()
    again = run(root, "copy", copy.spec.root)
    assert again.exit_code == ExitCode.ROOT_TAKEN
    assert "holds checkpoints already" in again.stderr


def test_a_damaged_checkpoint_is_not_copied(root: Root, tmp_path: Path) -> None:
    fill(root, 1)
    file = root.folder / root.head["committed"][0]["path"] / "data" / "half" / "zarr.json"
    file.write_bytes(file.read_bytes()[:-1])
    result = run(root, "copy", f"file://{tmp_path}/copy")
    assert result.exit_code == ExitCode.NO_VALID_CHECKPOINT
    assert not (tmp_path / "copy" / "HEAD").exists()


def test_doctor_accepts_a_correct_store_and_leaves_only_its_probe(root: Root) -> None:
    result = run(root, "doctor")
    assert result.exit_code == 0, result.stdout
    assert [row[-2] for row in words_of(result) if row and row[-1].isdigit()] == ["yes"] * 4
    assert {path.name for path in root.files()} <= {"PROBE", "LOCK"}


@pytest.mark.parametrize("command", ["list", "show", "verify", "pin"])
def test_an_empty_root_is_reported_in_one_sentence(file_root: Root, command: str) -> None:
    result = run(file_root, command)
    text = result.stdout + result.stderr
    assert "no checkpoint" in text
    assert "Traceback" not in text
    wrong = CliRunner().invoke(app, ["checkpoints", command, "ftp://host/root"])
    assert wrong.exit_code == ExitCode.BAD_CONFIGURATION
    assert wrong.stderr.count("\n") == 1
