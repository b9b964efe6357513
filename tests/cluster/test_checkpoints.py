"""What becomes of a run whose checkpoints are interrupted, damaged or somebody else's, with real trainers on a real object store."""

import hashlib
import time

import pytest
from obstore.store import S3Store

from halcyon_api.checkpoint_documents import (
    DATA_PREFIX,
    HEAD_KEY,
    MANIFEST_KEY,
    STEPS_PREFIX,
    CommittedStep,
    Head,
    Manifest,
    decode_head,
)
from halcyon_demo.comparison import Loss, compare, losses
from halcyon_demo.training import Training
from tests.cluster.whole_path import STEPS, WholePath

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def read(root: S3Store, key: str) -> bytes:
    return bytes(root.get(key).bytes())


def head(root: S3Store) -> Head:
    return decode_head(read(root, HEAD_KEY))


def files(root: S3Store, checkpoint: CommittedStep) -> dict[str, str]:
    """Keys of a checkpoint's files and the hashes that they must have, under a manifest that has its own."""
    manifest = read(root, f"{checkpoint.path}{MANIFEST_KEY}")
    assert hashlib.sha256(manifest).hexdigest() == checkpoint.manifest_sha256
    listed = Manifest.model_validate_json(manifest).files
    return {f"{checkpoint.path}{DATA_PREFIX}{file.path}": file.sha256 for file in listed}


def flip_a_bit(root: S3Store, checkpoint: CommittedStep) -> None:
    """Of the largest file."""
    key = max(files(root, checkpoint), key=lambda key: root.head(key)["size"])
    content = bytearray(read(root, key))
    content[len(content) // 2] ^= 1
    root.put(key, bytes(content))


def begun(root: S3Store) -> set[str]:
    """Prefixes of all checkpoints that were begun, `steps/<name>/`."""
    return set(root.list_with_delimiter(STEPS_PREFIX.rstrip("/"))["common_prefixes"])


def suspended_at(path: WholePath, training: Training, step: int) -> None:
    training.apply()
    training.wait_for_step(step)
    path.suspend(training, True)


def test_a_run_deleted_in_mid_save_goes_on_from_a_whole_checkpoint(path: WholePath, undisturbed: list[Loss]) -> None:
    training = path.training("deleted", save={"everySteps": 1})
    training.apply()
    training.wait_for_step(20)
    with path.root(training.name) as root:
        deadline = time.monotonic() + 60
        while begun(root) <= {checkpoint.path.rstrip("/") for checkpoint in head(root).committed}:
            assert time.monotonic() < deadline, "no save in flight was seen"
        training.delete()
        left = head(root)
        assert left.newest is not None
        assert left.newest.step >= 19
        for key, digest in files(root, left.newest).items():
            assert hashlib.sha256(read(root, key)).hexdigest() == digest
    training = path.training("deleted")  # the run made again, with rarer saves: that may change
    training.apply()
    status, lines = path.finish(training)
    assert compare(losses(lines, training.name), undisturbed, STEPS).differences == ()
    assert {line.step for line in lines if line.event == "restored"} == {0, left.newest.step}
    assert status.restarts.total == 0


def test_a_flipped_bit_falls_back_and_says_so(path: WholePath, undisturbed: list[Loss]) -> None:
    training = path.training("flipped")
    suspended_at(path, training, 45)
    with path.root(training.name) as root:
        newest, older, *_ = head(root).committed
        flip_a_bit(root, newest)
    path.suspend(training, False)
    _, lines = path.finish(training)
    assert compare(losses(lines, training.name), undisturbed, STEPS).differences == ()
    told = [line for line in lines if line.event == "fallback"]
    assert told
    assert f"step {newest.step}" in str(told[0].fields)
    assert min(line.step for line in lines if line.event == "step" and line.world > (1, 0)) == older.step + 1


def test_without_a_valid_checkpoint_a_run_stops_and_never_starts_again(path: WholePath) -> None:
    training = path.training("ruined")
    suspended_at(path, training, 25)
    with path.root(training.name) as root:
        before = head(root).committed
        for checkpoint in before:
            flip_a_bit(root, checkpoint)
    path.suspend(training, False)
    run = training.wait_for_phase("Failed")
    assert run.complaint.startswith("NoValidCheckpoint")
    stalled = run.status.condition("Stalled")
    assert stalled is not None
    assert stalled.status == "True"
    assert not [line for line in training.lines() if line.event == "step" and line.world > (1, 0)]
    with path.root(training.name) as root:
        assert head(root).committed == before, "what may still be mended is kept"


def test_a_second_run_on_a_root_is_refused_and_harms_nothing(path: WholePath, undisturbed: list[Loss]) -> None:
    intruder = path.training("intruder", root=path.document["spec"]["checkpoint"]["root"].replace("stdlib-llama", "undisturbed"))
    with path.root("undisturbed") as root:
        before = head(root)
        intruder.apply()
        run = intruder.wait_for_phase("Failed")
        assert run.complaint.startswith("CheckpointRootTaken")
        assert f"{path.place.runs}/undisturbed" in run.complaint
        assert head(root) == before
