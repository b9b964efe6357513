"""The source of batches of sampled answers, and the evaluation by rewards.

A batch is sampled when the loop asks for it, from the state before the step: that of the step itself, or with
``delaySteps`` one further ahead. In the first case nothing is carried from step to step on the host: a run that is
killed between two tokens samples the same answers again from its checkpoint. In the second case the answers wait in the
root (`halcyon.run.policy.ahead`) too. With ``sampledBy: samplers`` other processes sample them
(`halcyon.run.policy.pool`).
"""

import math
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from halcyon.data.dataset import Dataset, ValidationData
from halcyon.data.examples import Batch
from halcyon.host.errors import Diverged
from halcyon.models.parameters import joined, split
from halcyon.run.policy.ahead import Ahead, Sampled
from halcyon.run.policy.answers import questions
from halcyon.run.policy.conversations import ANSWERED
from halcyon.run.policy.environment import failures
from halcyon.run.policy.rewards import advantages, equal_groups, passes
from halcyon.run.policy.rollouts import Rollout
from halcyon.run.policy.sampling import Sampling
from halcyon.run.setup import Setup
from halcyon.step.objectives.policy import SAMPLED_LOG_PROBS
from halcyon.step.program import Program
from halcyon.step.state import Model, TrainState
from halcyon.step.step import sampling_part
from halcyon_api.status.evaluation import Evaluation

_EVALUATION = 2
"""The purpose of the answers of an evaluation, as a number for their keys."""


class PolicyBatches:
    """Answers to the prompts of a data set; see `halcyon.step.batch_source.BatchSource`.

    Args:
        dataset: The data set; its sources hold prompts.
        program: The program of the run.
        setup: The run, with ``objective.policy``. Its checkpoint root also keeps the samples and the rollouts.
    """

    last_wait_seconds = 0.0
    """Sampling is the work of the run, so no time counts as waiting for data."""

    def __init__(self, dataset: Dataset, program: Program, setup: Setup) -> None:
        place, checkpointer = setup.place, setup.checkpointer

        def committed() -> int:
            return 0 if checkpointer.newest is None else checkpointer.newest.step

        self._sampling = Sampling(dataset, program, place, committed)
        self._policy = policy = self._sampling.policy
        self._program, self._batch_size = program, place.spec.trainer.batch_size
        self._sampler = self._sampler_program() if policy.has_sampler else None
        self._ahead = Ahead(setup, policy) if policy.delay_steps else None
        self.numbers: Mapping[str, float] = {}
        """Numbers of the last batch; see `halcyon.step.batch_source.HasNumbers`."""

    def coming(self, step: int, state: TrainState) -> Callable[[float], bool] | None:
        """See `halcyon.step.batch_source.Waits`."""
        if self._ahead is None or self._ahead.pool is None:
            return None
        return self._ahead.coming(step, int(np.asarray(state.step)), state.model)

    def batch(self, step: int, state: TrainState) -> Batch:
        """See `halcyon.step.batch_source.BatchSource`."""
        done, sampling = int(np.asarray(state.step)), self._sampling

        def sampled(number: int, recorded: Rollout | None = None) -> Sampled:
            model = state.model if self._sampler is None else self._sampler(state)
            return sampling.sampled(number, model, done + 1 + number - step, recorded)

        found = sampled(step) if self._ahead is None else self._ahead.batch(step, done, sampling.asked, sampled)
        answered, rewards, mismatch, of_trainer, contexts, outcomes = found
        limit = self._policy.mismatch_limit
        if limit is not None and not mismatch[0] <= limit:
            raise Diverged(
                f"step {done + 1}: the log-probability of a sampled token differs by {mismatch[0]:.3g} nats from that "
                f"of the trainer, more than objective.policy.mismatchLimit ({limit:g}); compute in float32, or raise "
                "the limit"
            )
        rows = sampling.rows(sampling.asked(step), answered, contexts)
        counted = np.full(rewards.shape, True)
        environment = self._policy.environment
        if environment is not None and environment.on_failure == "leaveOut":
            counted = np.array([kind == ANSWERED for kind, _ in outcomes]).reshape(rewards.shape)
        self.numbers = {
            "reward": float(rewards.mean(where=counted)),
            "reward_deviation": float(rewards.std(where=counted)),
            "equal_groups": float(equal_groups(rewards).mean()),
            "answer_tokens": float(answered.counts.mean()),
            "cut_answers": float(1 - answered.ended.mean()),
            "mismatch_max": mismatch[0],
            "mismatch_mean": mismatch[1],
            **failures(outcomes),
        }
        of_answers = advantages(rewards, self._policy, counted).reshape(-1, 1).astype(np.float32)
        rows = rows._replace(weights=rows.weights * counted.reshape(-1, 1).astype(np.float32))
        batch = {**sampling.arrays(rows), "advantages": sampling.placed(of_answers * rows.weights)}
        if not self._policy.has_sampled_log_probs:
            return batch
        return {**batch, SAMPLED_LOG_PROBS: sampling.placed(rows.log_probs) if of_trainer is None else of_trainer}

    def evaluate(
        self,
        validation: ValidationData,
        model: Model,
        batches: int | None,
        before_batch: Callable[[], object] = lambda: None,
    ) -> Evaluation:
        """The rewards of answers to held-out prompts, with the same keys in every evaluation. All processes call it at
        the same step.

        Args:
            validation: The prompts.
            model: The model.
            batches: The largest number of batches, each with the answers of a training step; None: all.
            before_batch: See `halcyon.step.batch_source.Evaluates`.

        Returns:
            A loss that is minus the mean reward, and the sums of pass@k.
        """
        begin, group, sampling = time.perf_counter(), self._policy.group_size, self._sampling
        per = self._batch_size // group
        losses: list[float] = []
        found: dict[int, float] = {}
        for number, rows in enumerate(validation.validation_batches(batches, per)):
            before_batch()
            asked = questions(validation, rows)
            full = [*asked, *[asked[-1]] * (per - len(asked))]
            answered, _, outcomes = sampling.answers(model, full, _EVALUATION, 0, number * per)
            given = [one.reward for one in outcomes]
            rewards = sampling.together(
                lambda full=full, answered=answered, given=given: given or sampling.rewards.of(full, answered)
            )[: len(asked)]
            losses += (-rewards).ravel().tolist()
            for k, total in passes(rewards).items():
                found[k] = found.get(k, 0.0) + total
        return Evaluation(
            nats=math.fsum(losses),
            weight=len(losses),
            size_bytes=0,
            sequences=len(losses) // group,
            seconds=time.perf_counter() - begin,
            passes=found,
        )

    def close(self) -> None:
        """See `halcyon.step.batch_source.BatchSource`."""
        self._sampling.close()

    def _sampler_program(self) -> Callable[[TrainState], Model]:
        """A function from a state to the model that samples, for a run whose state keeps the weights that sample."""
        trained, steps = self._program.trained, self._policy.updates_per_rollout

        def whole(state: TrainState) -> Model:
            return joined(sampling_part(state, trained, steps), split(state.model, trained)[1])

        shardings = jax.tree.map(lambda leaf: leaf.sharding, self._program.template.model)
        return jax.jit(whole, out_shardings=shardings, compiler_options=self._program.compiler_options())
