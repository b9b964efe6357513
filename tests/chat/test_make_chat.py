"""`make chat`, killed by SIGKILL once in each stage and started again, has bitwise the numbers of an undisturbed
one.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from halcyon_chat.chain import FILES, Stage
from halcyon_devcluster.waiting import until
from tests.chat.toy import Chain

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.timeout(3600), pytest.mark.xdist_group("make-chat")]

NUMBERS = ("loss", "gradientNorm", "learningRate", "tokens", "reward", "rewardDeviation", "entropy")


def killed_at(chain: Chain, stage: Stage, process: subprocess.Popen[bytes], lines: int) -> bool:
    """Kill the command when a stage has printed this number of lines. Returns whether the stage was still running."""
    until(
        lambda: chain.lines(stage) >= lines or process.poll() is not None,
        timeout_seconds=120,
        interval_seconds=0.002,
        failure=lambda: f"{stage.name} has printed only {chain.lines(stage)} of {lines} lines: {chain.tail()}",
    )
    process.kill()
    process.wait()
    return not chain.is_done(stage)


def rows(records: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [(record["step"], *(record.get(name) for name in NUMBERS)) for record in records]


def test_kills_in_each_stage_change_no_number(calm: Chain, documents: Path) -> None:
    drawn = random.Random(17)
    chain = Chain(documents, documents.with_name("killed"), calm.compiled)
    for stage in chain.stages:
        latest = 0.6 if stage.steps else 0.3  # the few lines of an evaluation come close together at its end
        moment = max(1, round(drawn.uniform(0.05, latest) * calm.lines(stage)))
        was_running = killed_at(chain, stage, chain.start(), moment)
        assert was_running or stage.document is None, f"{stage.name} was over before the kill: {chain.tail()}"
    chain.finish(chain.start())
    for stage in chain.stages:
        if stage.document is not None and stage.steps is not None:
            assert chain.starts(stage) >= 2
            expected, found = calm.history(stage), chain.history(stage)
            assert [step for step, *_ in rows(found.steps)] == list(range(1, stage.steps + 1))
            assert rows(found.steps) == rows(expected.steps), stage.name
            assert rows(found.evaluations) == rows(expected.evaluations), stage.name
            assert chain.rollouts(stage) == calm.rollouts(stage)
            assert all(chain.rollouts(stage)) == ("policy" in stage.document["spec"].get("objective", {}))
        elif stage.document is not None and stage.document["spec"]["task"] == "evaluate":
            assert chain.evaluation(stage) == calm.evaluation(stage)
        elif stage.result is not None:
            assert chain.answers(stage) == calm.answers(stage)
    for path in (calm.folder / FILES).iterdir():
        assert (chain.folder / FILES / path.name).read_bytes() == path.read_bytes()


def test_all_runs_have_the_tokenizer_of_the_first(calm: Chain) -> None:
    trained = {path.read_text() for path in (calm.folder / "chat-tokens" / "tokenizers").iterdir()}
    kept = [
        path.read_text()
        for stage in calm.stages
        if stage.steps
        for path in (calm.folder / stage.name / "tokenizers").iterdir()
    ]
    assert len(trained) == 1
    assert set(kept) == trained


def test_a_chain_that_is_done_starts_no_process(calm: Chain) -> None:
    before = {stage.name: calm.lines(stage) for stage in calm.stages}
    calm.finish(calm.start())
    assert {stage.name: calm.lines(stage) for stage in calm.stages} == before
    assert "done before" in calm.tail()


def test_an_interrupt_ends_with_a_sentence(documents: Path, calm: Chain) -> None:
    chain = Chain(documents, documents.with_name("stopped"), calm.compiled)
    process = chain.start()
    first = chain.stages[0]
    until(lambda: (chain.folder / "logs" / f"{first.name}.log").exists(), timeout_seconds=60, failure=chain.tail)
    process.terminate()
    until(lambda: process.poll() is not None, timeout_seconds=60, failure=chain.tail)
    assert process.returncode == 130, chain.tail()
    assert "goes on where it was" in chain.tail()
