"""The rewards of answers, kept beside the checkpoints with some of the answers. Only process 0 uses it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from halcyon.inference.rollout import Answered
from halcyon.run.policy.answers import Question, texts_of
from halcyon.run.policy.rewards import Reward
from halcyon.storage.failures import StoreFailure, as_exit
from halcyon.storage.store import Store
from halcyon.telemetry.history.samples import (
    MOST_ANSWERS,
    MOST_CHARACTERS,
    MOST_PROMPTS,
    DamagedSamples,
    Sample,
    StepSamples,
    keep_first,
    read_samples,
    thin_out,
    write_samples,
)
from halcyon.tokenizer import Tokenizer

_THIN_STEPS = 64
"""Steps between two deletions of samples that need not stay."""


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

    def __init__(
        self,
        reward: Reward,
        tokenizer: Tokenizer,
        group: int,
        store: Store,
        on_warning: Callable[[str], object],
        committed: Callable[[], int],
    ) -> None:
        self._reward, self._tokenizer, self._group, self._committed = reward, tokenizer, group, committed
        self._store, self._on_warning, self._warned = store, on_warning, False

    def of(self, asked: Sequence[Question], answered: Answered) -> list[float]:
        """The rewards of some answers, which are not kept.

        Raises:
            TrainerExit: See `Reward.of`.
        """
        return self._rewards(asked, texts_of(self._tokenizer, answered))

    def of_step(self, step: int, asked: Sequence[Question], answered: Answered) -> list[float]:
        """The rewards of a training step.

        Args:
            step: The step, counted from 1.
            asked: Its prompts.
            answered: The answers, a group for each prompt.

        Raises:
            TrainerExit: See `Reward.of`; or the root did not answer.
        """
        texts = texts_of(self._tokenizer, answered)
        digest = hashlib.sha256(answered.tokens.tobytes() + answered.counts.tobytes()).hexdigest()
        if not self._reward.is_pure and (kept := self._kept(step, digest, len(texts))) is not None:
            return kept
        rewards = self._rewards(asked, texts)
        try:
            found = StepSamples(step, digest, tuple(rewards), self._some(asked, answered, texts, rewards))
            if self._reward.is_pure:
                write_samples(self._store, found)
            else:
                rewards = list(keep_first(self._store, found).rewards)
            self._warned = False
        except StoreFailure as failure:
            if not self._reward.is_pure:
                raise as_exit(failure, self._store.root) from None
            if not self._warned:
                self._warned = True
                self._on_warning(f"the samples of step {step} could not be written to {self._store.root}: {failure}")
            return rewards
        if step % _THIN_STEPS == 0:
            try:
                thin_out(self._store, min(step, self._committed()))
            except StoreFailure as failure:  # the next time deletes them
                self._on_warning(f"old samples could not be deleted from {self._store.root}: {failure}")
        return rewards

    def _rewards(self, asked: Sequence[Question], texts: Sequence[str]) -> list[float]:
        every = [(self._tokenizer.decode(one.tokens), one.reference) for one in asked]
        repeated = [pair for pair in every for _ in range(self._group)]
        return self._reward.of([prompt for prompt, _ in repeated], texts, [reference for _, reference in repeated])

    def _kept(self, step: int, digest: str, count: int) -> list[float] | None:
        """The rewards of the same answers that an earlier process has kept."""
        try:
            found = read_samples(self._store, step)
        except DamagedSamples as damage:
            self._on_warning(f"the rewards of step {step} are computed again: {damage}")
            return None
        except StoreFailure as failure:
            raise as_exit(failure, self._store.root) from None
        same = found is not None and found.sha256 == digest and len(found.rewards) == count
        return list(found.rewards) if found is not None and same else None

    def _some(
        self, asked: Sequence[Question], answered: Answered, texts: Sequence[str], rewards: Sequence[float]
    ) -> tuple[Sample, ...]:
        """A few prompts of a step, with some of their answers."""

        def sample(number: int) -> Sample:
            mine = slice(number * self._group, number * self._group + min(self._group, MOST_ANSWERS))
            return Sample(
                prompt=self._tokenizer.decode(asked[number].tokens)[-MOST_CHARACTERS:],
                reference=asked[number].reference[:MOST_CHARACTERS],
                answers=tuple(text[:MOST_CHARACTERS] for text in texts[mine]),
                rewards=tuple(rewards[mine]),
                tokens=tuple(answered.counts[mine].tolist()),
                ended=tuple(answered.ended[mine].tolist()),
            )

        return tuple(map(sample, range(min(len(asked), MOST_PROMPTS))))
