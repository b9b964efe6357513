"""Environments: functions of the user that talk with the model while it answers, and give the reward.

What a function says cannot be computed again, so its words, its reward and its failure are in the rollouts of the root.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from halcyon.checkpoint.processes import Processes, decide
from halcyon.host.errors import BadConfiguration, TrainerExit
from halcyon.inference.rollout import Answered
from halcyon.run.policy.answers import Question
from halcyon.run.policy.conversations import ANSWERED, Child, Conversations, Outcome, Template
from halcyon.run.policy.rewards import FIELD
from halcyon.run.policy.rollouts import Rollout
from halcyon.tokenizer import Tokenizer
from halcyon_api.spec.objective import PolicySpec

_FAILURES = {"timedOut": "timed_out_answers", "failed": "failed_answers", "tooLong": "too_long_answers"}
"""Names of the shares of failures in a step."""


class Talks:
    """The conversations of the batches of a run, on all processes; process 0 has the environment.

    Args:
        policy: The objective, with ``environment``.
        tokenizer: The tokenizer.
        templates: The chat templates of the data.
        processes: The processes.
        root: Address of the root, for error messages.

    Raises:
        BadConfiguration: Sources have different templates.
    """

    def __init__(
        self,
        policy: PolicySpec,
        tokenizer: Tokenizer,
        templates: Sequence[str | None],
        processes: Processes,
        root: str,
    ) -> None:
        if len(set(templates)) > 1:
            raise BadConfiguration(
                "spec.data.sources: an environment needs one chat template, and sources have different ones"
            )
        self._policy, self._decide = policy, functools.partial(decide, processes, root)
        self._template, self._number = Template(tokenizer, templates[0]), 0
        self._child: Child | None = None

    @contextlib.contextmanager
    def of_batch(
        self,
        asked: Sequence[Question],
        group: int,
        width: int,
        text: Callable[[Question], str],
        recorded: Rollout | None = None,
    ) -> Iterator["Talk"]:
        """The conversations of a batch. Collectives begin, continue and end it.

        Args:
            asked: Its prompts.
            group: Answers to each.
            width: Room for a prompt, in tokens.
            text: The text of a prompt.
            recorded: See `halcyon.run.policy.sampling.Sampling.answers`.
        """
        if recorded is not None:
            yield Talk(self._decide, lambda: Recorded(recorded), self._policy)
            return

        def begun() -> Conversations:
            if self._child is not None and self._child.has_ended:
                self.close()
            self._child = self._child or Child(self._policy)
            self._number += 1
            rows = [one for one in asked for _ in range(group)]
            return Conversations(self._child, self._template, str(self._number), rows, [*map(text, rows)], width)

        talk = Talk(self._decide, begun, self._policy)
        yield talk
        if talk.is_stuck:
            self.close()

    def close(self) -> None:
        """End the process of the environment."""
        if self._child is not None:
            self._child.close()
            self._child = None


class Talk:
    """The conversations of one batch, on all processes; see `halcyon.inference.rollout.Replies`."""

    pauses = None

    def __init__(
        self,
        decide: Callable[[Callable[[], dict[str, Any]]], dict[str, Any]],
        begun: Callable[[], "Conversations | Recorded"],
        policy: PolicySpec,
    ) -> None:
        self._decide, self.rounds = decide, policy.max_tokens + 1
        self._conversations: Any = None  # only process 0 has them

        def begin() -> dict[str, Any]:
            self._conversations = begun()
            return {"contexts": self._conversations.prompts}

        self.contexts: list[list[int]] = decide(begin)["contexts"]
        self.is_stuck = self.is_lost = False
        """Whether a conversation has not ended, so that its function still runs; whether the process has ended."""

    def __call__(self, rows: Sequence[int], tokens: np.ndarray, counts: np.ndarray) -> dict[int, list[int]]:
        """See `halcyon.inference.rollout.Replies`."""

        def replies() -> dict[str, Any]:
            return {"replies": list(self._conversations.replies(rows, tokens, counts).items())}

        return {row: list(reply) for row, reply in self._decide(replies)["replies"]}

    def finish(self, answered: Answered) -> list[Outcome]:
        """The outcome of each row."""

        def outcomes() -> dict[str, Any]:
            found = self._conversations.finish(answered)
            return {"outcomes": found, "lost": self._conversations.is_lost}

        decided = self._decide(outcomes)
        found, self.is_lost = [Outcome(*one) for one in decided["outcomes"]], decided["lost"]
        self.is_stuck = any(one.kind == "timedOut" for one in found)
        return found


class Recorded:
    """The words of an environment in a rollout, in the place of `Conversations`."""

    is_lost = False

    def __init__(self, rollout: Rollout) -> None:
        self._rollout, self.prompts = rollout, rollout.contexts

    def replies(self, rows: Sequence[int], tokens: np.ndarray, counts: np.ndarray) -> dict[int, list[int]]:
        """What followed in rows that went on."""
        del tokens
        found: dict[int, list[int]] = {}
        for row in rows:
            first, after = int(counts[row]), self._rollout.counts[row]
            own = self._rollout.sampled[row][first:after]
            if first < after:
                found[row] = self._rollout.tokens[row][first : first + own.index(True)]
        return found

    def finish(self, answered: Answered) -> list[Outcome]:
        """The recorded outcome of each row."""
        del answered
        rewards = [reward for group in self._rollout.rewards for reward in group]
        return [Outcome(kind, why, reward) for (kind, why), reward in zip(self._rollout.outcomes, rewards, strict=True)]


def failures(outcomes: Sequence[tuple[str, str]]) -> dict[str, float]:
    """The share of each failure; nothing without an environment."""
    kinds = [kind for kind, _ in outcomes]
    return {name: kinds.count(kind) / len(kinds) for kind, name in _FAILURES.items()} if kinds else {}


def problem(outcomes: Sequence[Outcome], policy: PolicySpec) -> str | None:
    """A warning about the failures of a batch; None: there are none.

    Raises:
        TrainerExit: All conversations failed, or one did and ``onFailure`` is ``end``.
    """
    failed = [one for one in outcomes if one.kind != ANSWERED]
    if not failed:
        return None
    assert policy.environment is not None  # noqa: S101
    text = f"{FIELD}: {policy.reward}: {len(failed)} of {len(outcomes)} conversations failed; the first one "
    text += f"{failed[0].kind}: {failed[0].why}"
    if len(failed) == len(outcomes) or policy.environment.on_failure == "end":
        raise TrainerExit(text)
    return text
