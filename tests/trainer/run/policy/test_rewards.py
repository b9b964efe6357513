"""Reward functions: what is called, what is kept for a step that is done again, and what is rejected."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halcyon.host.errors import BadConfiguration, RootUnusable, TrainerExit
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store
from halcyon.inference.rollout import Answered
from halcyon.run.policy.answers import Question
from halcyon.run.policy.rewards import RecordedRewards, Reward, reward_named
from halcyon.telemetry.history.samples import NEWEST, key_of, read_samples
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.trainer.data.formats.standin import MarkedBytes

TOKENIZER = MarkedBytes()
HERE = __name__
CALLS: list[tuple[list[str], list[str], list[str]]] = []
constant = 3


def counting(prompts: list[str], answers: list[str], references: list[str]) -> list[float]:
    """A reward that differs at each call, as that of a service may."""
    CALLS.append((prompts, answers, references))
    return [len(CALLS) + place / 8 for place in range(len(answers))]


def failing(**texts: list[str]) -> list[float]:
    raise ValueError("no such judge")


def leaving(**texts: list[str]) -> list[float]:
    sys.exit(0)


def asked(*references: str) -> list[Question]:
    return [Question(np.arange(65, 68, dtype=np.int32), reference) for reference in references]


def answered(*texts: str) -> Answered:
    counts = np.array([len(text) for text in texts], np.int32)
    tokens = np.zeros((len(texts), max(counts)), np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = TOKENIZER.encode(text)
    return Answered(tokens, counts, np.ones(tokens.shape, bool), np.ones(len(texts), bool), np.zeros(tokens.shape))


def records(root: Path, reward: str, warnings: list[str] | None = None, committed: int = 0) -> RecordedRewards:
    store = Store(CheckpointSpec(root=f"file://{root}"))
    return RecordedRewards(
        reward_named(reward), TOKENIZER, 2, store, (warnings if warnings is not None else []).append, lambda: committed
    )


def test_the_named_rewards_compare_numbers(tmp_path: Path) -> None:
    found = records(tmp_path, "gsm8k").of(
        asked("so #### 1,200", "#### 7"), answered("#### 1200", "1200", "I say #### 7.", "#### 8")
    )
    assert found == [1.0, 0.0, 1.0, 0.0]


def test_an_answer_that_is_cut_is_not_right_for_a_named_reward_and_may_be_for_a_function(tmp_path: Path) -> None:
    answers = answered("#### 7", "#### 7 and #### 7")._replace(ended=np.array([True, False]))
    assert records(tmp_path, "spellingBee").of(asked("#### 7"), answers) == [1.0, 0.0]
    rewards = records(tmp_path, f"{__name__}:counting").of(asked("#### 7"), answers)
    assert 0.0 not in rewards


def test_a_named_reward_without_any_number_to_compare_with_is_a_mistake() -> None:
    reward = reward_named("spellingBee")
    with pytest.raises(BadConfiguration) as found:
        reward.of(["p", "p"], ["#### 1", "b"], ["", ""])
    assert str(found.value) == (
        "spec.objective.policy.reward: spellingBee compares numbers after ####, and no reference of the step has one, "
        "such as ''; name the field that has it (format.prompt.referenceField), or take another reward"
    )
    assert reward.of(["p", "p"], ["#### 1", "b"], ["", "#### 1"]) == [0.0, 0.0]


def test_a_step_that_is_done_again_gets_the_same_rewards(tmp_path: Path) -> None:
    """The function returns other numbers at each call.

    It is called once for the same answers, and again for other answers of the step.
    """
    CALLS.clear()
    first = records(tmp_path, f"{HERE}:counting").of_step(3, asked("x"), answered("one", "two"))
    assert CALLS == [(["ABC", "ABC"], ["one", "two"], ["x", "x"])]
    assert records(tmp_path, f"{HERE}:counting").of_step(3, asked("x"), answered("one", "two")) == first == [1.0, 1.125]
    assert len(CALLS) == 1
    assert records(tmp_path, f"{HERE}:counting").of_step(3, asked("x"), answered("one", "six")) == [2.0, 2.125]


def test_rewards_since_the_newest_checkpoint_stay_however_long_ago_it_was(tmp_path: Path) -> None:
    CALLS.clear()
    first = records(tmp_path, f"{HERE}:counting").of_step(1, asked("x"), answered("one", "two"))
    later = 64 * (NEWEST // 64 + 1)  # a step that thins out
    records(tmp_path, f"{HERE}:counting").of_step(later, asked("x"), answered("one", "six"))
    assert records(tmp_path, f"{HERE}:counting").of_step(1, asked("x"), answered("one", "two")) == first
    records(tmp_path, f"{HERE}:counting", committed=later).of_step(later, asked("x"), answered("six", "six"))
    assert not (tmp_path / key_of(1)).exists()


def test_samples_that_cannot_be_deleted_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(store: Store, newest: int) -> None:
        raise StoreFailure("PERMISSION_DENIED", "no right to list")

    monkeypatch.setattr("halcyon.telemetry.history.samples.thin_out", denied)
    warnings: list[str] = []
    mine = records(tmp_path, f"{HERE}:counting", warnings)
    CALLS.clear()
    assert mine.of_step(64, asked("x"), answered("one", "two")) == [1.0, 1.125]
    (warning,) = warnings
    assert "old samples could not be deleted" in warning


def test_a_damaged_file_is_judged_anew(tmp_path: Path) -> None:
    CALLS.clear()
    warnings: list[str] = []
    records(tmp_path, f"{HERE}:counting").of_step(3, asked("x"), answered("one", "two"))
    path = tmp_path / key_of(3)
    path.write_bytes(path.read_bytes()[:-3])
    assert records(tmp_path, f"{HERE}:counting", warnings).of_step(3, asked("x"), answered("one", "two")) == [
        2.0,
        2.125,
    ]
    assert "the rewards of step 3 are computed again: samples/000000003.json.zst is damaged" in warnings[0]


def test_samples_are_kept_with_their_texts(tmp_path: Path) -> None:
    records(tmp_path, "gsm8k").of_step(
        12, asked("#### 1", "#### 2", "#### 3"), answered("#### 1", "no", "#### 2", "#### 2", "no", "no")
    )
    found = read_samples(Store(CheckpointSpec(root=f"file://{tmp_path}")), 12)
    assert found is not None
    assert found.rewards == (1.0, 0.0, 1.0, 1.0, 0.0, 0.0)
    assert [(one.prompt, one.reference, one.answers, one.rewards) for one in found.samples] == [
        ("ABC", "#### 1", ("#### 1", "no"), (1.0, 0.0)),
        ("ABC", "#### 2", ("#### 2", "#### 2"), (1.0, 1.0)),
    ]


def test_a_root_that_cannot_be_written_ends_a_run_only_if_its_rewards_must_be_kept(tmp_path: Path) -> None:
    (tmp_path / "samples").write_text("in the way")
    warnings: list[str] = []
    mine = records(tmp_path, "gsm8k", warnings)
    for step in (1, 2):
        assert mine.of_step(step, asked("#### 1"), answered("#### 1", "no")) == [1.0, 0.0]
    (warning,) = warnings
    assert "the samples of step 1 could not be written" in warning
    with pytest.raises((RootUnusable, TrainerExit), match="checkpoint root"):
        records(tmp_path, f"{HERE}:counting").of_step(1, asked("x"), answered("one", "two"))


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("no.such.package:reward", "no.such.package does not import (ModuleNotFoundError"),
        (f"{HERE}:absent", f"the module {HERE} has no function absent; correct the path"),
        (f"{HERE}:constant", f"the module {HERE} has no function constant"),
    ],
)
def test_a_reward_that_is_not_there_is_one_sentence(path: str, sentence: str) -> None:
    with pytest.raises(BadConfiguration, match=r"spec\.objective\.policy\.reward: ") as found:
        reward_named(path)
    assert sentence in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ([1.0], "returned 1 numbers for 2 answers; return one for each"),
        ([1.0, math.nan], "returned nan for answer 1; return finite numbers"),
        (None, "returned NoneType; it must return a list with one number for each answer"),
        (["a", "b"], "returned 'a' for answer 0; it must return a list with one number for each answer"),
        ([1.0, None], "returned None for answer 1; it must return a list with one number for each answer"),
        (np.float32(1), "returned float32; it must return a list with one number for each answer"),
    ],
)
def test_a_wrong_result_is_one_sentence(returned: Any, sentence: str) -> None:
    reward = Reward("mine:reward", lambda prompts, answers, references: returned, False)
    with pytest.raises(BadConfiguration) as found:
        reward.of(["p", "p"], ["a", "b"], ["", ""])
    assert str(found.value) == f"spec.objective.policy.reward: mine:reward {sentence}"


def test_a_reward_that_fails_names_the_line() -> None:
    with pytest.raises(
        TrainerExit, match=r"failing failed in test_rewards.py line \d+ \(ValueError: no such judge\)"
    ) as found:
        reward_named(f"{HERE}:failing").of(["p"], ["a"], [""])
    assert not isinstance(found.value, BadConfiguration)


def test_a_reward_that_exits_is_a_failure_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainerExit, match=r"leaving failed in test_rewards.py line \d+ \(SystemExit: 0\)"):
        reward_named(f"{HERE}:leaving").of(["p"], ["a"], [""])
    (tmp_path / "script_of_a_reward.py").write_text("import sys\nsys.exit('usage: ...')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadConfiguration, match=r"script_of_a_reward does not import \(SystemExit: usage: \.\.\.\)"):
        reward_named("script_of_a_reward:reward")
