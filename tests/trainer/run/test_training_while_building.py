"""A run on a token cache that is still being built trains, through kills, notices and failures, as on a finished
cache.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from halcyon.data.open import inspect_dataset
from halcyon_api.ends import ExitCode
from halcyon_api.reading import parse_run
from tests.suite.limits import limit
from tests.trainer.data.cache.runs import jsonl, ledger_of, write_jsonl
from tests.trainer.support.datasets import ensure_caches
from tests.trainer.support.process_groups import Process, TrainerProcesses, run_document, start_processes

pytestmark = pytest.mark.slow

MODULE = "tests.trainer.data.train_child"
STEPS = 60


class Gate:
    """Sets how many shards each builder may commit."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = path
        self.let(0)
        monkeypatch.setenv("GATE", str(path))
        monkeypatch.setenv("LOCK_TIMEOUT_SECONDS", str(limit(3)))  # longer than a live builder may wait for a processor

    def let(self, shards: int) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(str(shards))
        fresh.rename(self._path)


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(tmp_path / "gate", monkeypatch)


def document(root: Path, corpus: Path, *, slices: int = 1, steps: int = STEPS) -> dict[str, Any]:
    evaluation = {"everySteps": 10, "batches": 1}
    run = run_document(root, slices=slices, steps=steps, evaluation=evaluation)
    run["spec"]["data"] = {
        "sources": [jsonl(corpus / "web.jsonl", "web", weight=3.0), jsonl(corpus / "books.jsonl", "books", weight=1.0)],
        "order": {"windows": {"sequences": 8}},
        "validation": {"fraction": 0.1},
        "cache": {"shardTokens": 4096, "workers": 1},
    }
    return run


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "web.jsonl", 700)
    write_jsonl(tmp_path / "books.jsonl", 300, seed=1)
    return tmp_path


def numbers(processes: Process) -> dict[tuple[str, int], float]:
    """Losses of steps and of evaluations."""
    kinds = ("step", "evaluation")
    return {(event["event"], event["step"]): event["loss"] for event in processes.events if event.get("event") in kinds}


def finished(events: list[dict[str, Any]]) -> set[str]:
    return {event["source"] for event in events if event.get("event") == "tokenized" and event["finished"]}


def steps_of(events: list[dict[str, Any]]) -> int:
    return max((event["step"] for event in events if event.get("event") == "step"), default=0)


def wait_for_step(group: TrainerProcesses, step: int) -> None:
    group.leader.wait_for(lambda events: steps_of(events) >= step)


def wait_until_short_of_text(group: TrainerProcesses, run: dict[str, Any], *, shards: int) -> int:
    """Wait until a source has `shards` shards and all steps whose text exists are done; returns the number of steps."""
    spec = parse_run(run).spec

    def text_for() -> int | None:
        dataset, caches = inspect_dataset(spec, process="looking")
        if len(caches.ledgers["web"].shards) < shards:
            return None
        return next(
            step for step in range(spec.trainer.steps + 1) if step == spec.trainer.steps or not dataset.holds(step)
        )

    group.leader.wait_for(lambda events: 0 < steps_of(events) == text_for())
    return steps_of(group.leader.events)


@pytest.fixture
def groups_reaped() -> Iterator[list[TrainerProcesses]]:
    groups: list[TrainerProcesses] = []
    yield groups
    for group in groups:
        group.reap()


def test_kills_and_notices_while_the_cache_is_built_change_nothing(
    tmp_path: Path, corpus: Path, gate: Gate, groups_reaped: list[TrainerProcesses]
) -> None:
    calm = document(tmp_path / "calm-root", corpus)
    ensure_caches(parse_run(calm).spec, process="before")
    undisturbed = start_processes(calm, tmp_path / "calm")
    groups_reaped.append(undisturbed)
    assert undisturbed.wait() == [ExitCode.DONE]
    expected = numbers(undisturbed.leader)
    assert len(expected) == STEPS + STEPS // 10
    assert not finished(undisturbed.leader.events), "its cache was finished before"

    run = document(tmp_path / "root", corpus)
    found: dict[tuple[str, int], float] = {}

    def start(restart: int, shards: int) -> TrainerProcesses:
        gate.let(shards)
        group = start_processes(run, tmp_path / "run", restart=restart, module=MODULE)
        groups_reaped.append(group)
        return group

    def collect(group: TrainerProcesses) -> None:
        for key, loss in numbers(group.leader).items():
            assert loss == expected[key], key
            found[key] = loss

    # Killed while the cache is built, after the first steps.
    killed = start(0, 2)
    wait_for_step(killed, 2)
    assert not finished(killed.leader.events)
    killed.leader.popen.kill()
    assert killed.wait() == [-signal.SIGKILL]
    collect(killed)
    before = ledger_of(f"file://{tmp_path}/root").shards
    assert before

    # A notice while it waits for text: the steps done are saved at once.
    noticed = start(1, 2)
    wait_for_step(noticed, steps_of(killed.leader.events) + 1)
    done = wait_until_short_of_text(noticed, run, shards=3)
    noticed.signal(signal.SIGTERM, 0)
    assert noticed.wait() == [ExitCode.PREEMPTED]
    assert not finished(noticed.leader.events)
    collect(noticed)
    report = noticed.leader.report()
    assert report["checkpointStep"] == report["step"] == done < STEPS
    assert ledger_of(f"file://{tmp_path}/root").shards[: len(before)] == before

    # Runs to the end, while more text arrives.
    last = start(2, 0)
    last.leader.wait_for(lambda events: any(event.get("event") == "restored" for event in events))
    gate.let(10**6)
    assert last.wait() == [ExitCode.DONE]
    collect(last)
    assert found == expected
    assert ledger_of(f"file://{tmp_path}/root").finished or len(ledger_of(f"file://{tmp_path}/root").shards) > len(
        before
    )


def test_a_notice_before_the_first_text_ends_the_run_at_once(
    tmp_path: Path, corpus: Path, gate: Gate, groups_reaped: list[TrainerProcesses]
) -> None:
    group = start_processes(document(tmp_path / "root", corpus), tmp_path / "run", module=MODULE)
    groups_reaped.append(group)
    group.leader.wait_for(lambda events: any(event.get("event") == "joined" for event in events))
    group.signal(signal.SIGTERM, 0)
    assert group.wait() == [ExitCode.PREEMPTED]
    assert (
        group.leader.report()["message"]
        == "a notice of preemption came before the first step; there was nothing to save"
    )


@pytest.mark.variant
def test_processes_wait_leave_and_fail_together(
    tmp_path: Path, corpus: Path, gate: Gate, groups_reaped: list[TrainerProcesses]
) -> None:
    with (corpus / "web.jsonl").open("a") as stream:
        stream.write('{"other": 1}\n')
    # More steps than the valid rows suffice for, so the run meets the bad row before its end.
    run = document(tmp_path / "root", corpus, slices=2, steps=100 * STEPS)

    def start(restart: int, shards: int) -> TrainerProcesses:
        gate.let(shards)
        group = start_processes(run, tmp_path / "run", restart=restart, module=MODULE)
        groups_reaped.append(group)
        return group

    waiting = start(0, 2)
    done = wait_until_short_of_text(waiting, run, shards=1)
    waiting.signal(signal.SIGTERM, 1)
    assert waiting.wait() == [ExitCode.PREEMPTED] * 2
    reports = [process.report() for process in waiting.processes]
    assert reports[0]["step"] == reports[1]["step"] == reports[0]["checkpointStep"] == done
    assert not any(finished(process.events) for process in waiting.processes)

    failing = start(1, 2)
    wait_for_step(failing, done + 1)
    gate.let(10**6)
    assert failing.wait() == [ExitCode.BAD_CONFIGURATION] * 2
    sentences = {process.report()["message"] for process in failing.processes}
    assert len(sentences) == 1
    assert "row 700" in sentences.pop()
    assert not ledger_of(f"file://{tmp_path}/root").finished
