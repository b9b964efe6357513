"""Loading that is killed at any moment and restarted gives bitwise the batches of undisturbed loading.

Tested with one to four hosts, with different numbers of batches made ahead, from a folder and from an object store.
"""

from __future__ import annotations

import multiprocessing
import random
import secrets
import signal
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from halcyon_api.training_run import TrainingRunSpec
from halcyon_devcluster.waiting import until
from tests.ports import free_port
from tests.suite.limits import limit
from tests.trainer.checkpoint.roots import Gateway, gateway
from tests.trainer.data.cache.runs import spec_of
from tests.trainer.data.load_child import StartOptions, load_batches
from tests.trainer.support.datasets import ensure_caches

__all__ = ["gateway"]

pytestmark = pytest.mark.slow

STEPS = 800
FEW_KILLS = {1: 3, 2: 2, 4: 1}
KILLS = {1: 15, 2: 8, 3: 5, 4: 5}
"""Number of kills by number of hosts."""
AHEAD = 20
"""Steps that a process group may do after the step of its kill, however late the kill comes."""
PATIENCE_SECONDS = 120

Rows = dict[tuple[int, int], str]
"""Digest by step and row."""


@dataclass(frozen=True)
class Place:
    """A root with finished caches, and the environment variables for access to it."""

    spec: TrainingRunSpec
    environment: dict[str, str]


def write_corpus(folder: Path) -> Path:
    for name, files in (("even", 5), ("packed", 40), ("fitted", 25)):
        (folder / name).mkdir(parents=True)
        for number in range(files):
            lines = (
                f"{name} {number}, {line} times {number + 2} is {line * (number + 2)}.\n"
                for line in range(5 + number * 37 % 90)
            )
            (folder / name / f"{number:02d}.txt").write_text("".join(lines))
    return folder


def spec_at(root: str, corpus: Path, endpoint: str | None = None) -> TrainingRunSpec:
    layouts = {
        "even": {"concatenate": {}},
        "packed": {"pack": {"maxSegments": 4, "tooLong": "left"}},
        "fitted": {"bestFit": {"buffer": 8}},
    }
    sources = [
        {"name": name, "text": {"paths": [str(corpus / name)]}, "layout": layout, "weight": weight}
        for weight, (name, layout) in enumerate(layouts.items(), 1)
    ]
    trainer = {
        "steps": STEPS,
        "batchSize": 24,
        "sequenceLength": 32,
        "microbatches": 2,
        "seed": 5,
        "batchSchedule": [
            {"fromStep": 200, "sequenceLength": 64},
            {"fromStep": 400, "batchSize": 48},
            {"fromStep": 600, "sequenceLength": 16},
        ],
    }
    cache = {"workers": 1, "shardTokens": 20_000, "memoryMebibytes": 1}
    checkpoint = {"endpoint": endpoint} if endpoint else None
    return spec_of(root, sources, checkpoint=checkpoint, trainer=trainer, data__cache=cache)


@pytest.fixture
def places(tmp_path: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> list[Place]:
    """The same data in a folder and in a bucket."""
    corpus, bucket = write_corpus(tmp_path / "corpus"), f"b{secrets.token_hex(4)}"
    (gateway.folder / bucket).mkdir()
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)
    found = [
        Place(spec_at(f"file://{tmp_path}/root", corpus), {}),
        Place(spec_at(f"s3://{bucket}/run", corpus, gateway.endpoint), gateway.environment),
    ]
    for place in found:
        ensure_caches(place.spec, process="builder")
    return found


def start(
    place: Place, folder: Path, *, hosts: int, first_step: int, last_step: int = STEPS - 1, chance: random.Random
) -> list[ForkServerProcess]:
    """Start a process group that takes these steps and then waits. How batches are made ahead is random."""
    life = StartOptions(
        spec=place.spec,
        environment=place.environment,
        coordinator=f"127.0.0.1:{free_port()}",
        hosts=hosts,
        first_step=first_step,
        last_step=last_step,
        depth=chance.choice([1, 2, 3, 8, 40]),
        threads=chance.choice([1, 2, 5]),
        memory_bytes=chance.choice([1, 1 << 16, 1 << 30]),
    )
    context = multiprocessing.get_context("forkserver")
    # Each process is forked from one that has imported everything, so that kills hit the loading and not the imports.
    context.set_forkserver_preload(["tests.trainer.data.load_child"])
    started = [
        context.Process(target=load_batches, args=(life, host, folder / f"{host}"), daemon=True)
        for host in range(hosts)
    ]
    for process in started:
        process.start()
    return started


def lines(folder: Path, host: int) -> list[str]:
    path = folder / f"{host}"
    return path.read_text().splitlines() if path.exists() else []


def reached(folder: Path, hosts: int) -> int:
    """The first step that at least one host has not taken."""
    return min((int(written[-1].split()[0]) + 1 if (written := lines(folder, host)) else 0) for host in range(hosts))


def rows_of(folder: Path, hosts: int) -> Rows:
    """The rows that all starts of all hosts have read; a row that was read twice, or by two hosts, must be the same."""
    found: Rows = {}
    for host in range(hosts):
        for line in lines(folder, host):
            step, *rows = line.split()
            for row, digest in (word.split(":") for word in rows):
                assert found.setdefault((int(step), int(row)), digest) == digest, f"step {step}, row {row}"
    return found


def wait_for_step(group: list[ForkServerProcess], folder: Path, goal: int) -> None:
    """Wait until all hosts have taken `goal` steps, or one has ended."""
    until(
        lambda: reached(folder, len(group)) >= goal or not all(process.is_alive() for process in group),
        timeout_seconds=PATIENCE_SECONDS,
        interval_seconds=0.002,
        failure=lambda: f"step {goal} is not reached, but {reached(folder, len(group))}",
    )


def end(group: list[ForkServerProcess]) -> None:
    for process in group:
        process.kill()
        process.join(limit(PATIENCE_SECONDS))


def run_out(group: list[ForkServerProcess], folder: Path) -> None:
    """Let a process group take all remaining steps, then end it."""
    wait_for_step(group, folder, STEPS)
    exits = [process.exitcode for process in group]
    end(group)
    assert reached(folder, len(group)) == STEPS, exits


@pytest.fixture
def undisturbed(places: list[Place], tmp_path: Path) -> Rows:
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    run_out(start(places[0], folder, hosts=1, first_step=0, chance=random.Random(0)), folder)
    found = rows_of(folder, 1)
    assert len(found) == 400 * 24 + 400 * 48
    assert len({tuple(found[step, row] for row in range(24)) for step in range(STEPS)}) == STEPS, (
        "all batches must be different"
    )
    return found


@pytest.mark.parametrize("wanted_kills", [FEW_KILLS, pytest.param(KILLS, marks=pytest.mark.variant)], ids=["6", "33"])
def test_sigkills_in_loading_change_no_row(
    places: list[Place], undisturbed: Rows, tmp_path: Path, wanted_kills: dict[int, int]
) -> None:
    for hosts, wanted in wanted_kills.items():
        chance, kills, folder = random.Random(hosts), 0, tmp_path / f"{hosts}"
        folder.mkdir()
        while kills < wanted:
            first = reached(folder, hosts)
            place = chance.choice(places)
            # Leaves room for the other kills; hits the opening, the first batch or a later one.
            goal = first + chance.randint(0, (STEPS - first) // (wanted - kills + 1))
            group = start(
                place, folder, hosts=hosts, first_step=first, last_step=min(goal + AHEAD, STEPS - 1) - 1, chance=chance
            )
            wait_for_step(group, folder, goal)
            time.sleep(chance.uniform(0, 0.01))  # a random delay
            assert reached(folder, hosts) < STEPS
            victim = group[kills % hosts]
            victim.kill()
            victim.join(limit(PATIENCE_SECONDS))
            assert victim.exitcode == -signal.SIGKILL
            end(group)  # the next start is of the whole process group
            kills += 1
        run_out(
            start(chance.choice(places), folder, hosts=hosts, first_step=reached(folder, hosts), chance=chance), folder
        )
        assert rows_of(folder, hosts) == undisturbed
