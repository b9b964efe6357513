"""A training whose output is lost, or is not read, trains to its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import yaml

from halcyon.checkpoint import list_checkpoints
from halcyon.checkpoint.verify import find_damage
from halcyon.host.storage.store import Store
from halcyon_api.reading import parse_run
from tests.suite.limits import limit
from tests.trainer.support.process_groups import run_document

pytestmark = pytest.mark.slow

STEPS = 12


def close_after(event: str) -> Callable[[subprocess.Popen[Any]], None]:
    """A reader of standard output that leaves after the first event of this name."""

    def read(process: subprocess.Popen[Any]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["event"] == event:
                break
        process.stdout.close()
        if process.stdin is not None:
            process.stdin.close()

    return read


def read_nothing(process: subprocess.Popen[Any]) -> None:
    """A reader that is stopped: it keeps the pipe open and reads nothing."""


def trained(
    folder: Path, reader: Callable[[subprocess.Popen[Any]], None], stdout: int | IO[bytes] = subprocess.PIPE, *,
    steps: int = STEPS, module: str = "halcyon.commands.main", stderr: int = subprocess.PIPE, **options: Any,
) -> tuple[int, str]:  # fmt: skip
    """Exit code and standard error of a training with this reader; checks that its last step is saved."""
    document = run_document(folder / "root", slices=1, steps=steps)
    (folder / "run.yaml").write_text(yaml.safe_dump(document))
    process: subprocess.Popen[Any] = subprocess.Popen(
        [sys.executable, "-m", module, "train", str(folder / "run.yaml"), "--json"],
        stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, **options,
    )  # fmt: skip
    try:
        reader(process)
        code = process.wait(limit(60))
        errors = process.stderr.read().decode() if process.stderr is not None and not process.stderr.closed else ""
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    root = parse_run(document).spec.checkpoint
    newest = list_checkpoints(root).committed[0]
    assert newest.step == steps
    assert find_damage(Store(root), newest) == ()
    assert "Traceback" not in errors
    return code, errors


def test_a_training_whose_reader_leaves_trains_to_its_end(tmp_path: Path) -> None:
    code, errors = trained(tmp_path, close_after("start"))
    assert code == 0
    assert errors.startswith("standard output is lost (Broken pipe); the work goes on without it\n")


@pytest.mark.variant
def test_a_reader_that_leaves_just_before_the_event_of_the_end_ends_nothing(tmp_path: Path) -> None:
    code, _ = trained(tmp_path, close_after("compiled"), module="tests.trainer.support.waiting_end_child")
    assert code == 0


@pytest.mark.variant
def test_both_streams_may_be_lost(tmp_path: Path) -> None:
    def nobody_reads(process: subprocess.Popen[Any]) -> None:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()

    assert trained(tmp_path, nobody_reads, stderr=subprocess.STDOUT)[0] == 0


@pytest.mark.variant
def test_a_stopped_reader_stalls_neither_the_steps_nor_the_end(tmp_path: Path) -> None:
    """The log has more bytes than a pipe."""
    assert trained(tmp_path, read_nothing, steps=600)[0] == 0


@pytest.mark.variant
def test_a_full_disk_under_the_log_ends_no_training(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        code, errors = trained(tmp_path, read_nothing, full)
    assert code == 0
    assert errors.startswith("standard output is lost (No space left on device)")


@pytest.mark.variant
@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)])
def test_a_training_that_was_started_without_streams_writes_into_no_other_file(
    tmp_path: Path, closed: tuple[int, ...]
) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    code, _ = trained(tmp_path, read_nothing, preexec_fn=close)
    assert code == 0
    assert b'"event"' not in (tmp_path / "root" / "HEAD").read_bytes()


@pytest.mark.variant
def test_a_terminal_that_is_gone_ends_no_training(tmp_path: Path) -> None:
    ours, theirs = os.openpty()

    def hang_up(process: subprocess.Popen[Any]) -> None:
        os.read(ours, 1)
        os.close(ours)

    def ignore_hangup() -> None:  # as `nohup` does
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with open(theirs, "wb", closefd=False) as terminal:
        code, errors = trained(tmp_path, hang_up, terminal, preexec_fn=ignore_hangup)
    os.close(theirs)
    assert code == 0
    assert errors.startswith("standard output is lost (Input/output error)")
