"""Answers that are sampled ahead: which weights sample a batch, and what a process that resumes reads or refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from halcyon.checkpoint.evidence import StepNumbers
from halcyon.host.errors import NoValidCheckpoint
from halcyon.host.storage.store import Store
from halcyon.inference.rollout import Answered
from halcyon.run.policy.ahead import Ahead, Sampled
from halcyon.run.policy.answers import Question
from halcyon.run.policy.rollouts import find, names_in, write_rollout
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.api.documents import minimal_spec

DELAY, MOST = 2, 3


class Alone:
    process_index, process_count = 0, 1

    def agree(self, value: Any) -> Any:
        return value


class Run:
    """A process of a run, whose answers name the weights and the process that sampled them."""

    def __init__(self, root: Path, attempt: int = 1) -> None:
        policy = {"reward": "gsm8k", "groupSize": 2, "maxTokens": MOST, "delaySteps": DELAY}
        self.store, self.attempt = Store(CheckpointSpec(root=f"file://{root}")), attempt
        self.checkpointer = SimpleNamespace(
            newest=None,
            committed=(),
            start=attempt,
            writer=f"{attempt:08x}",
            segments=lambda step: {"metrics/one": "ab"},
        )
        place: Any = SimpleNamespace(
            spec=minimal_spec(spec__objective={"policy": policy}), processes=Alone(), root=lambda: self.store
        )
        setup: Any = SimpleNamespace(place=place, checkpointer=self.checkpointer, numbers=StepNumbers())
        assert place.spec.objective.policy is not None
        self.ahead = Ahead(setup, place.spec.objective.policy)

    def step(self, done: int) -> tuple[int, int]:
        """The version and the attempt of the answers that a step trains on."""

        def sample(batch: int, recorded: Any) -> Sampled:
            assert recorded is None
            tokens = np.array([[done + 1, self.attempt, 0], [batch, 0, 0]], np.int32)
            own = tokens > 0
            answered = Answered(tokens, own.sum(1).astype(np.int32), own, own.any(1), -0.1 * own.astype(np.float32))
            return Sampled(answered, np.array([[1.0, float(batch)]]), (0.0, 0.0))

        found = self.ahead.batch(done, done, lambda batch: [Question(np.array([65, batch + 1]), "")], sample)
        assert found.rewards.tolist() == [[1.0, float(done)]]
        return int(found.answered.tokens[0, 0]) - 1, int(found.answered.tokens[0, 1])


def test_a_batch_is_sampled_by_the_weights_of_the_delay_before_it_and_a_resumed_process_reads_it(
    tmp_path: Path,
) -> None:
    first = Run(tmp_path)
    assert [first.step(done) for done in range(6)] == [(0, 1), (0, 1), (0, 1), (1, 1), (2, 1), (3, 1)]
    second = Run(tmp_path, attempt=2)
    assert [second.step(done) for done in range(4, 8)] == [(2, 1), (3, 1), (4, 2), (5, 2)]
    third = Run(tmp_path, attempt=3)
    assert [third.step(done) for done in range(6, 8)] == [(4, 2), (5, 2)], "the later of two starts counts"
    assert [Run(tmp_path, attempt=4).step(0)] == [(0, 4)], "it begins again"


def test_answers_of_steps_that_are_undone_do_not_count(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for done in range(5):
        run.step(done)
    run.attempt = 7
    assert [run.step(done) for done in (3, 4, 5, 6)] == [(1, 1), (2, 1), (3, 7), (4, 7)]


def test_a_link_names_what_the_steps_after_it_need(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for done in range(5):
        run.step(done)
    named = run.checkpointer.segments(4)
    needed = [name.key for name in sorted(names_in(run.store)) if name.batch in (4, 5)]
    assert sorted(named) == ["metrics/one", *needed]
    assert [named[key] for key in needed] == [find(run.store, batch, batch - DELAY)[2] for batch in (4, 5)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, r"there are no answers to batch 4 by the weights of step 2; step 5 trains on these answers, so"),
        (
            {"version": 1},
            r"there are no answers to batch 4 by the weights of step 2; there are those of step 1; step 5 trains",
        ),
        ({"prompts": [[65, 9]]}, "answers other prompts than those of the data and the document"),
        ({"tokens": [[1] * 4, [4] * 4]}, "answers other prompts than those of the data and the document"),
    ],
)
def test_answers_that_are_missing_or_others_end_the_run(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    run = Run(tmp_path)
    for done in range(4):
        run.step(done)
    name, kept, _ = find(run.store, 4, 2)
    run.store.delete(name.key)
    if change:
        found = replace(kept, **change)
        write_rollout(run.store, name._replace(version=found.version), found)
    with pytest.raises(NoValidCheckpoint, match=sentence):
        Run(tmp_path, attempt=2).step(4)


def test_a_damaged_file_ends_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for done in range(4):
        run.step(done)
    name = find(run.store, 5, 3)[0]
    run.store.write(name.key, b"torn")
    with pytest.raises(NoValidCheckpoint, match=r"rollouts/000000005\S+ is damaged .*; step 6 trains on these answers"):
        Run(tmp_path, attempt=2).step(4)
