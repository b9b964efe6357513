"""The answers that are sampled ahead of their step, in memory and in the root of the run.

The batch of step s is sampled with the weights of step s - ``delaySteps``; the first ones with those that the run
begins with. A process that resumes needs answers of weights that are gone, and reads them in the root
(`halcyon.run.policy.rollouts`). Answers, or with a pool (`halcyon.run.policy.pool`) the weights that sample them, are
written there before any step follows, so a checkpoint never needs one that is missing. A replay reads those that it
cannot compute in the root of the run, and compares the others with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from halcyon.checkpoint.opening import load_head
from halcyon.checkpoint.processes import decide
from halcyon.host.errors import NoValidCheckpoint
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.records import DamagedRecord
from halcyon.inference.rollout import Answered
from halcyon.run.policy import rollouts
from halcyon.run.policy.pool import Publisher
from halcyon.run.replay import ComparedNumbers
from halcyon.run.setup import Setup
from halcyon_api.checkpoint_documents import ORIGIN_KEY, decode_origin
from halcyon_api.spec.objective import PolicySpec

if TYPE_CHECKING:
    import jax

    from halcyon.run.policy.answers import Question

_THIN_BATCHES = 64
"""Batches between two deletions of files that need not stay."""
_TYPES = (np.int32, np.int32, bool, bool, np.float32)
"""Types of the arrays of `Answered`."""


class Sampled(NamedTuple):
    """The answers of a batch, on the host."""

    answered: Answered
    """The answers."""
    rewards: np.ndarray
    """float64 [prompt, answer]."""
    mismatch: tuple[float, float]
    """See `halcyon.run.policy.rollouts.Rollout`."""
    of_trainer: jax.Array | None = None
    """The log-probabilities as the trainer computes them, for a run that needs these."""
    contexts: Sequence[Sequence[int]] = ()
    """See `halcyon.run.policy.rollouts.Rollout`."""
    outcomes: Sequence[tuple[str, str]] = ()
    """See `halcyon.run.policy.rollouts.Rollout`."""


class Ahead:
    """The answers of the next batches. Creating it is a collective.

    Args:
        setup: The run, with ``objective.policy``.
        policy: The objective, with ``delaySteps``.
    """

    def __init__(self, setup: Setup, policy: PolicySpec) -> None:
        place, self._checkpointer, delay = setup.place, setup.checkpointer, policy.delay_steps or 0
        self._spec, self._processes, self._numbers = place.spec, place.processes, setup.numbers
        self._policy, self._delay = policy, delay
        self._own = self._home = place.root()
        if self._spec.task == "replay" and self._spec.origin is not None:
            self._home = place.other_run(self._spec.origin).store
        self._waiting: dict[int, tuple[int, Sampled]] = {}
        """Version and answers, by batch."""
        self._digests: dict[rollouts.RolloutName, str] = {}
        """The files of the root that this process has read or written, with their SHA-256."""

        def first() -> dict[str, int]:
            data = self._home.read(ORIGIN_KEY).data
            record = None if data is None else decode_origin(data)
            return {"first": 0 if record is None or record.weights_only else record.step}

        self._first: int = decide(self._processes, self._own.root, first)["first"]
        """Steps done when the run began."""
        of_history = self._checkpointer.segments

        self.pool: Publisher | None = None
        """Hands the weights to samplers; None: the run samples itself."""
        if policy.has_pool and self._spec.task == "train":
            start, sections = self._checkpointer.start, dict(self._checkpointer.fingerprints.sections)
            self.pool = Publisher(self._own, self._processes, (start, self._checkpointer.writer), sections)

        def named(step: int) -> dict[str, str] | None:
            found, known = of_history(step), self._digests.copy()
            needed = {one.key: known[one] for one in known if one.version < step <= one.batch < step + delay}
            return None if found is None else found | needed

        self._checkpointer.segments = named

    def coming(self, number: int, done: int, model: Any) -> Callable[[float], bool]:
        """Hand weights to the samplers, before the batch of a step is asked for. A collective.

        Args:
            number: The number of the batch.
            done: Steps done.
            model: The weights of this step.

        Returns:
            See `halcyon.run.policy.pool.Publisher.coming`.
        """
        assert self.pool is not None  # noqa: S101 - the caller has checked it
        ahead = range(number, number + self._delay + 1)
        self.pool.publish(done, [batch for batch in ahead if self._version(batch, number, done) == done], model)
        return self.pool.coming(number, self._version(number, number, done))

    def _version(self, batch: int, number: int, done: int) -> int:
        """Steps done by the weights that sample a batch, where those of this step train on batch `number`."""
        return max(self._first, done - self._delay + batch - number)

    def batch(
        self,
        number: int,
        done: int,
        asked: Callable[[int], Sequence[Question]],
        sample: Callable[[int, rollouts.Rollout | None], Sampled],
    ) -> Sampled:
        """The answers of a batch. Samples those of the batch that the weights of this step answer. A collective.

        Args:
            number: The number of the batch.
            done: Steps done.
            asked: Returns the prompts of a batch.
            sample: Samples the answers of a batch with the weights of this step; a replay with the words of an
                environment in those of the run.

        Raises:
            NoValidCheckpoint: Answers of earlier weights are missing, or others than were written.
            TrainerExit: See `halcyon.run.policy.rewards.Reward.of`; or the root did not answer.
        """
        if self.pool is not None:
            return self._earlier(number, self._version(number, number, done), done, asked(number))
        # Answers of steps that an audit has undone do not count.
        self._waiting = {batch: pair for batch, pair in self._waiting.items() if pair[0] < done}
        for batch in range(number, number + self._delay + 1):  # also after the last step: the run may be made longer
            if batch not in self._waiting:
                version = self._version(batch, number, done)
                if version < done:
                    found = self._earlier(batch, version, done, asked(batch))
                else:
                    found = sample(batch, self._recorded(batch, version))
                    self._keep(batch, version, asked(batch), found)
                self._waiting[batch] = version, found
        return self._waiting.pop(number)[1]

    def _earlier(self, batch: int, version: int, done: int, asked: Sequence[Question]) -> Sampled:
        def read() -> dict[str, Any]:
            here = any(name[:2] == (batch, version) for name in rollouts.names_in(self._own))
            store = self._own if here else self._home
            head, _ = load_head(store)
            entries = [] if head is None else [one for one in head.committed if one.step == done]
            try:
                name, found, digest = rollouts.find(store, batch, version, entries[0] if entries else None)
                shape = len(asked) * self._policy.group_size, self._policy.max_tokens
                if found.prompts != _prompts(asked) or np.shape(found.tokens) != shape:
                    raise DamagedRecord(f"{name.key} answers other prompts than those of the data and the document")
            except DamagedRecord as damage:
                raise NoValidCheckpoint(
                    f"{store.root}: {damage}; step {batch + 1} trains on these answers, so restore the file, or go "
                    "back to another checkpoint"
                ) from None
            if store is self._own:
                self._digests[name] = digest
            if self.pool is not None:
                with contextlib.suppress(StoreFailure):  # the next time deletes them
                    self.pool.delete_used(batch)
                    self._thin(batch)
            return asdict(found)

        found = decide(self._processes, self._own.root, read)
        answered = Answered(*(np.array(found[name], kind) for name, kind in zip(Answered._fields, _TYPES, strict=True)))
        contexts, outcomes = found["contexts"], [(kind, why) for kind, why in found["outcomes"]]
        return Sampled(answered, np.array(found["rewards"]), tuple(found["mismatch"]), None, contexts, outcomes)

    def _recorded(self, batch: int, version: int) -> rollouts.Rollout | None:
        """What an environment said in the run that is replayed. A collective."""
        if self._policy.environment is None or self._spec.task != "replay":
            return None

        def read() -> dict[str, Any]:
            try:
                return asdict(rollouts.find(self._home, batch, version)[1])
            except DamagedRecord as damage:
                raise NoValidCheckpoint(f"{self._home.root}: {damage}; an environment cannot say it again") from None

        return rollouts.Rollout(**decide(self._processes, self._own.root, read))

    def _keep(self, batch: int, version: int, asked: Sequence[Question], sampled: Sampled) -> None:
        """Write answers, and compare those of a replay with those of the run."""
        checkpointer, seed = self._checkpointer, self._spec.trainer.seed
        found = rollout_of(batch, version, seed, asked, sampled)
        name = rollouts.RolloutName(batch, version, checkpointer.start, checkpointer.writer)

        def write() -> dict[str, Any]:
            if name not in self._digests:  # else it is computed once more, to measure rounding
                self._digests[name] = rollouts.write_rollout(self._own, name, found)
                if isinstance(self._numbers, ComparedNumbers) and (why := rollouts.unlike(self._home, found)):
                    self._numbers.differs(batch + 1, f"step {batch + 1}: {why}")
                with contextlib.suppress(StoreFailure):  # the next time deletes them
                    self._thin(batch)
            return {}

        decide(self._processes, self._own.root, write)

    def _thin(self, batch: int) -> None:
        if batch % _THIN_BATCHES == 0:
            rollouts.delete_old(self._own, [one.step for one in self._checkpointer.committed], self._delay)


def rollout_of(batch: int, version: int, seed: int, asked: Sequence[Question], sampled: Sampled) -> rollouts.Rollout:
    """The answers of a batch, as a root keeps them."""
    arrays = (x.tolist() for x in (*sampled.answered, sampled.rewards))
    others = list(sampled.mismatch), [list(one) for one in sampled.contexts], list(sampled.outcomes)
    return rollouts.Rollout(batch, version, seed, _prompts(asked), *arrays, *others)  # pyright: ignore[reportCallIssue]


def _prompts(asked: Sequence[Question]) -> list[list[int]]:
    return [one.tokens.tolist() for one in asked]
