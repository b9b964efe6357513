"""The rewards of answers: reward functions, the numbers that are kept beside the checkpoints with some of the answers,
and the statistics of groups.

A reward function is built in, or one of the user by its import path. It is called with three lists of texts, one entry
for each answer, and returns one finite number for each answer:

    def reward(prompts, answers, references):
        return [float(reference in answer) for answer, reference in zip(answers, references)]

Only process 0 calls it. It may call a service: its numbers are written beside the checkpoints before a step uses them,
and a run that does the step again reads them (`halcyon.telemetry.history.samples`).
"""

from __future__ import annotations

import functools
import hashlib
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from halcyon.evals.scores import pass_at_k, reported_ks
from halcyon.evals.tasks import final_number, has_number_of
from halcyon.host.errors import BadConfiguration, TrainerExit, first_line
from halcyon.host.storage.failures import StoreFailure, as_exit
from halcyon.host.storage.records import DamagedRecord
from halcyon.host.storage.store import Store
from halcyon.telemetry.history import samples
from halcyon.tokenizer import Tokenizer
from halcyon_api.spec.objective import PolicySpec

if TYPE_CHECKING:  # most runs have no policy, and need not import what samples answers
    from halcyon.inference.rollout import Answered
    from halcyon.run.policy.answers import Question

FIELD = "spec.objective.policy.reward"


@dataclass(frozen=True)
class Reward:
    """A reward function.

    Attributes:
        name: Its name or import path.
        function: Called with the keyword arguments ``prompts``, ``answers`` and ``references``.
        is_pure: Whether its numbers depend on its arguments alone, so that they need not be kept.
        ended_only: Whether an answer that is cut at its longest length has the reward 0, whatever the function says.
            Otherwise a model learns to write on and on after the right number.
    """

    name: str
    function: Callable[..., Any]
    is_pure: bool
    ended_only: bool = False

    def of(self, prompts: Sequence[str], answers: Sequence[str], references: Sequence[str]) -> list[float]:
        """The rewards of some answers.

        Raises:
            TrainerExit: The function failed; another try may succeed.
            BadConfiguration: It returned something else than one finite number for each answer, or cannot use the
                references.
        """
        try:
            found = self.function(prompts=list(prompts), answers=list(answers), references=list(references))
        except BadConfiguration:
            raise
        except (Exception, SystemExit) as error:  # the function is not ours; an exit would count as the end of the run
            raise TrainerExit(
                f"{FIELD}: {self.name} failed {_where(error)}({type(error).__name__}: {first_line(error)})"
            ) from error
        rewards = []
        entry = found
        try:
            for entry in found:
                rewards.append(float(entry))
        except (TypeError, ValueError):
            what = type(found).__name__ if entry is found else f"{entry!r:.40} for answer {len(rewards)}"
            raise BadConfiguration(
                f"{FIELD}: {self.name} returned {what}; it must return a list with one number for each answer"
            ) from None
        if len(rewards) != len(answers):
            raise BadConfiguration(
                f"{FIELD}: {self.name} returned {len(rewards)} numbers for {len(answers)} answers; return one for each"
            )
        for number, reward in enumerate(rewards):
            if not math.isfinite(reward):
                raise BadConfiguration(
                    f"{FIELD}: {self.name} returned {reward} for answer {number}; return finite numbers"
                )
        return rewards


def reward_named(name: str) -> Reward:
    """The reward function of a run.

    Args:
        name: ``gsm8k``, ``spellingBee``, or an import path.

    Raises:
        BadConfiguration: It does not import, or it is not a function.
    """
    module_name, _, attribute = name.partition(":")
    if not attribute:
        return Reward(name, functools.partial(_same_number, name), is_pure=True, ended_only=True)
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:  # the module is not ours
        raise BadConfiguration(
            f"{FIELD}: {module_name} does not import ({type(error).__name__}: {first_line(error)}); correct the path, "
            "or take an image that has the package"
        ) from None
    function = getattr(module, attribute, None)
    if not callable(function):
        raise BadConfiguration(f"{FIELD}: the module {module_name} has no function {attribute}; correct the path")
    return Reward(name, function, is_pure=False)


def no_rewards(**texts: Sequence[str]) -> Sequence[float]:
    """In the place of a reward function whose rewards come from elsewhere."""
    raise TypeError("an environment gives the rewards")


def _same_number(
    name: str, *, prompts: Sequence[str], answers: Sequence[str], references: Sequence[str]
) -> list[float]:
    """1 for an answer with the number of the reference after ``####``, else 0: the rule of GSM8K (Cobbe et al. 2021)
    and of SpellingBee.

    Raises:
        BadConfiguration: No reference has such a number, so no answer could be right.
    """
    del prompts
    if references and all(final_number(reference) is None for reference in references):
        raise BadConfiguration(
            f"{FIELD}: {name} compares numbers after ####, and no reference of the step has one, such as "
            f"{references[0][:100]!r}; name the "
            "field that has it (format.prompt.referenceField), or take another reward"
        )
    return [float(has_number_of(reference, answer)) for answer, reference in zip(answers, references, strict=True)]


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"in {Path(frames[-1].filename).name} line {frames[-1].lineno} " if len(frames) > 1 else ""


TOLERANCE = 1e-6
"""Largest difference of equal rewards: absolute, and relative to the largest reward of the group.

Above the rounding of float32.
"""

PASSES = 1.0
"""Least reward of an answer that counts as right."""


def advantages(rewards: np.ndarray, policy: PolicySpec, counted: np.ndarray | None = None) -> np.ndarray:
    """Each reward minus the mean of its group (Liu et al. 2025); if ``advantage`` is ``standardized``, divided by the
    standard deviation of the group plus ``deviationEpsilon`` (Shao et al. 2024, section 4.1.2). 0 in a group whose
    rewards are equal.

    Args:
        rewards: float64 [prompt, answer].
        policy: ``spec.objective.policy`` of the run.
        counted: Answers that count: bool [prompt, answer]. The others, and one alone in its group, have 0. None: all.

    Returns:
        float64 [prompt, answer].
    """
    if counted is not None and not counted.all():
        found = np.zeros_like(rewards)
        for group, here in enumerate(counted):
            if here.sum() > 1:
                found[group, here] = advantages(rewards[group, here][None], policy)[0]
        return found
    equal = equal_groups(rewards)[:, None]
    centred = np.where(equal, 0.0, rewards - rewards.mean(axis=1, keepdims=True))
    if policy.advantage == "centred":
        return centred
    deviation = rewards.std(axis=1, ddof=1 if policy.deviation == "sample" else 0, keepdims=True)
    return centred / np.where(equal, 1.0, deviation + policy.deviation_epsilon)


def equal_groups(rewards: np.ndarray) -> np.ndarray:
    """Whether the rewards of a group differ by rounding at most, so that its answers have no gradient: bool
    [prompt].
    """
    largest = np.maximum(1.0, np.abs(rewards).max(axis=1))
    return np.ptp(rewards, axis=1) <= TOLERANCE * largest


def passes(rewards: np.ndarray) -> dict[int, float]:
    """The sum over the prompts of `pass_at_k`, for k = 1, 2, 4, ... and for all answers of a group.

    Args:
        rewards: float64 [prompt, answer]. An answer is right if its reward is at least `PASSES`.
    """
    size, right = rewards.shape[1], (rewards >= PASSES).sum(axis=1).tolist()
    return {k: math.fsum(pass_at_k(size, count, k) for count in right) for k in reported_ks(size)}


_THIN_STEPS = 64
"""Steps between two deletions of samples that need not stay."""


@dataclass(eq=False)
class RecordedRewards:
    """Computes rewards, or reads those that an earlier process has kept.

    The numbers of a function of the user are written before they are used, because it may call a service. If they
    cannot be written, the run ends. The built-in rewards are pure, so their samples are written only for readers, and a
    failure is a warning.

    Args:
        reward: The reward function.
        tokenizer: Makes the texts.
        group: Answers to each prompt.
        store: The checkpoint root.
        on_warning: Called with a sentence about a failure that costs only samples.
        committed: Returns the step of the newest checkpoint. The files of later steps stay, because a run that resumes
            does them again.
    """

    reward: Reward
    tokenizer: Tokenizer
    group: int
    store: Store
    on_warning: Callable[[str], object]
    committed: Callable[[], int]

    def __post_init__(self) -> None:
        self._warned = False

    def of(self, asked: Sequence[Question], answered: Answered) -> list[float]:
        """The rewards of some answers, which are not kept.

        Raises:
            TrainerExit: See `Reward.of`.
        """
        return self._rewards(asked, _texts_of(self.tokenizer, answered), answered)

    def of_step(
        self, step: int, asked: Sequence[Question], answered: Answered, given: Sequence[float] | None = None
    ) -> list[float]:
        """The rewards of a training step.

        Args:
            step: The step, counted from 1.
            asked: Its prompts.
            answered: The answers, a group for each prompt.
            given: The rewards, if they are known.

        Raises:
            TrainerExit: See `Reward.of`; or the root did not answer.
        """
        texts = _texts_of(self.tokenizer, answered)
        digest = hashlib.sha256(answered.tokens.tobytes() + answered.counts.tobytes()).hexdigest()
        if not self.reward.is_pure and (kept := self._kept(step, digest, len(texts))) is not None:
            return kept
        rewards = self._rewards(asked, texts, answered) if given is None else list(given)
        try:
            found = samples.StepSamples(step, digest, tuple(rewards), self._some(asked, answered, texts, rewards))
            if self.reward.is_pure:
                samples.write_samples(self.store, found)
            else:
                rewards = list(samples.keep_first(self.store, found).rewards)
            self._warned = False
        except StoreFailure as failure:
            if not self.reward.is_pure:
                raise as_exit(failure, self.store.root) from None
            if not self._warned:
                self._warned = True
                self.on_warning(f"the samples of step {step} could not be written to {self.store.root}: {failure}")
            return rewards
        if step % _THIN_STEPS == 0:
            try:
                samples.thin_out(self.store, min(step, self.committed()))
            except StoreFailure as failure:  # the next time deletes them
                self.on_warning(f"old samples could not be deleted from {self.store.root}: {failure}")
        return rewards

    def _rewards(self, asked: Sequence[Question], texts: Sequence[str], answered: Answered) -> list[float]:
        every = [(self.tokenizer.decode(one.tokens), one.reference) for one in asked]
        repeated = [pair for pair in every for _ in range(self.group)]
        found = self.reward.of([prompt for prompt, _ in repeated], texts, [reference for _, reference in repeated])
        if not self.reward.ended_only:
            return found
        return [one if ended else 0.0 for one, ended in zip(found, answered.ended.tolist(), strict=True)]

    def _kept(self, step: int, digest: str, count: int) -> list[float] | None:
        """The rewards of the same answers that an earlier process has kept."""
        try:
            found = samples.read_samples(self.store, step)
        except DamagedRecord as damage:
            self.on_warning(f"the rewards of step {step} are computed again: {damage}")
            return None
        except StoreFailure as failure:
            raise as_exit(failure, self.store.root) from None
        if found is None or found.sha256 != digest or len(found.rewards) != count:
            return None
        return list(found.rewards)

    def _some(
        self, asked: Sequence[Question], answered: Answered, texts: Sequence[str], rewards: Sequence[float]
    ) -> tuple[samples.Sample, ...]:
        """A few prompts of a step, with some of their answers."""

        def sample(number: int) -> samples.Sample:
            mine = slice(number * self.group, number * self.group + min(self.group, samples.MOST_ANSWERS))
            return samples.Sample(
                prompt=self.tokenizer.decode(asked[number].tokens)[-samples.MOST_CHARACTERS :],
                reference=asked[number].reference[: samples.MOST_CHARACTERS],
                answers=tuple(text[: samples.MOST_CHARACTERS] for text in texts[mine]),
                rewards=tuple(rewards[mine]),
                tokens=tuple(answered.counts[mine].tolist()),
                ended=tuple(answered.ended[mine].tolist()),
            )

        return tuple(map(sample, range(min(len(asked), samples.MOST_PROMPTS))))


def _texts_of(tokenizer: Tokenizer, answered: Answered) -> list[str]:
    """The texts of answers, without special tokens; expressions and results of the calculator belong to them."""
    return [
        tokenizer.decode(tokens[:count])
        for tokens, count in zip(answered.tokens, answered.counts.tolist(), strict=True)
    ]
