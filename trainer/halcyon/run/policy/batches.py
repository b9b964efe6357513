"""The source of batches of sampled answers, and the evaluation by rewards.

A batch is sampled when the loop asks for it, from the state before the step: that of the step itself, or with
``delaySteps`` one further ahead. In the first case nothing is carried from step to step on the host: a run that is
killed between two tokens samples the same answers again from its checkpoint. In the second case the answers wait in the
root (`halcyon.run.policy.ahead`) too.
"""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from halcyon.checkpoint.processes import decide
from halcyon.data.dataset import Dataset, ValidationData
from halcyon.data.examples import Batch
from halcyon.host.errors import Diverged
from halcyon.host.storage.store import Store
from halcyon.inference.calculator import Calculator
from halcyon.inference.chat import ChatPrompts
from halcyon.inference.rollout import Answered, Rollouts, RolloutShape
from halcyon.models.parameters import joined, split
from halcyon.run.policy.ahead import Ahead, Sampled
from halcyon.run.policy.answers import Question, Rows, prompted, questions, rows_of
from halcyon.run.policy.rewards import RecordedRewards, advantages, equal_groups, passes, reward_named
from halcyon.run.setup import Setup
from halcyon.step.objectives.policy import SAMPLED_LOG_PROBS, Policy
from halcyon.step.program import Program
from halcyon.step.state import Model, TrainState
from halcyon.step.step import sampling_part
from halcyon.tokenizer import Tokenizer
from halcyon_api.spec.trainer import TrainerSpec
from halcyon_api.status.evaluation import Evaluation

_TRAINING, _EVALUATION = 1, 2
"""Purposes of answers, as numbers for their keys."""
_REQUEST_SECONDS = 60.0


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
        spec, objective = place.spec, program.objective
        policy = spec.objective.policy
        if policy is None or not isinstance(objective, Policy):
            raise TypeError("the run has no objective.policy")
        self._dataset, self._program, self._policy, self._processes = dataset, program, policy, place.processes
        self._settings: TrainerSpec = spec.trainer
        store = Store(spec.checkpoint, timeout_seconds=_REQUEST_SECONDS)

        def committed() -> int:
            return 0 if checkpointer.newest is None else checkpointer.newest.step

        self._rewards = RecordedRewards(
            reward_named(policy.reward),
            dataset.tokenizer,
            policy.group_size,
            store,
            place.reporter.warning,
            committed,
        )
        self._root = store.root
        self._width = spec.trainer.sequence_length - policy.max_tokens
        formats = [source.format.conversation for source in spec.data.sources]
        templates = [one.template for one in formats if one is not None]
        self._ends = _ends(dataset.tokenizer, templates)
        self._calculator = Calculator.of(dataset.tokenizer) if None in templates else None
        self._rollouts: dict[int, Rollouts] = {}
        self._sampling = self._sampling_program() if policy.has_sampler else None
        self._compared = self._comparison(objective)
        self._ahead = Ahead(setup, policy) if policy.delay_steps else None
        self.numbers: Mapping[str, float] = {}
        """Numbers of the last batch; see `halcyon.step.batch_source.HasNumbers`."""

    def batch(self, step: int, state: TrainState) -> Batch:
        """See `halcyon.step.batch_source.BatchSource`."""
        done = int(np.asarray(state.step))

        def sampled(number: int) -> Sampled:
            return self._sampled(number, state, done + 1 + number - step)

        found = sampled(step) if self._ahead is None else self._ahead.batch(step, done, self._asked, sampled)
        answered, rewards, mismatch, of_trainer = found
        rows = self._rows(self._asked(step), answered)
        self.numbers = {
            "reward": float(rewards.mean()),
            "reward_deviation": float(rewards.std()),
            "equal_groups": float(equal_groups(rewards).mean()),
            "answer_tokens": float(answered.counts.mean()),
            "cut_answers": float(1 - answered.ended.mean()),
            "mismatch_max": mismatch[0],
            "mismatch_mean": mismatch[1],
        }
        of_answers = advantages(rewards, self._policy).reshape(-1, 1).astype(np.float32)
        batch = {**self._arrays(rows), "advantages": self._placed(of_answers * rows.weights)}
        if not self._policy.has_sampled_log_probs:
            return batch
        return {**batch, SAMPLED_LOG_PROBS: self._placed(rows.log_probs) if of_trainer is None else of_trainer}

    def _asked(self, number: int) -> list[Question]:
        """The prompts of a batch."""
        return questions(self._dataset, self._dataset.train_rows(number)[:: self._policy.group_size])

    def _rows(self, asked: Sequence[Question], answered: Answered) -> Rows:
        prompts = prompted(asked, self._policy.group_size, self._width)
        return rows_of(prompts, answered, self._settings.sequence_length, self._dataset.tokenizer.pad_id)

    def _arrays(self, rows: Rows) -> Batch:
        arrays = {"tokens": rows.tokens, "targets": rows.targets, "weights": rows.weights}
        return {name: self._placed(array) for name, array in arrays.items()}

    def _sampled(self, number: int, state: TrainState, step: int) -> Sampled:
        """The answers of a batch by the weights of a state, for a step, counted from 1.

        Raises:
            Diverged: The engine's numbers are not those of the trainer.
        """
        model = state.model if self._sampling is None else self._sampling(state)
        asked = self._asked(number)
        prompts = prompted(asked, self._policy.group_size, self._width)
        answered = self._sampler(len(prompts.counts))(model, prompts, _TRAINING, number)
        rewards = self._together(lambda: self._rewards.of_step(step, asked, answered))
        rows = self._rows(asked, answered)
        of_trainer, *both = self._compared(model, self._arrays(rows), self._placed(rows.log_probs))
        most, mean = (float(x) for x in jax.device_get(both))
        limit = self._policy.mismatch_limit
        if limit is not None and not most <= limit:
            raise Diverged(
                f"step {step}: the log-probability of a sampled token differs by {most:.3g} nats from that of the "
                f"trainer, more than objective.policy.mismatchLimit ({limit:g}); compute in float32, or raise the limit"
            )
        return Sampled(answered, rewards, (most, mean), of_trainer if self._policy.has_sampler else None)

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
        begin, group = time.perf_counter(), self._policy.group_size
        per = self._settings.batch_size // group
        losses: list[float] = []
        found: dict[int, float] = {}
        for number, rows in enumerate(validation.validation_batches(batches, per)):
            before_batch()
            asked = questions(validation, rows)
            full = [*asked, *[asked[-1]] * (per - len(asked))]
            prompts = prompted(full, group, self._width, number * per)
            answered = self._sampler(len(prompts.counts))(model, prompts, _EVALUATION, 0)
            rewards = self._together(lambda full=full, answered=answered: self._rewards.of(full, answered))[
                : len(asked)
            ]
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
        """See `halcyon.step.batch_source.BatchSource`. There is no thread."""

    def _sampler(self, rows: int) -> Rollouts:
        if rows not in self._rollouts:
            shape = RolloutShape(
                rows=rows,
                prompt=self._width,
                answer=self._policy.max_tokens,
                tokens=self._dataset.tokenizer.vocab_size,
                temperature=self._policy.temperature,
                ends=self._ends,
                dtype=self._settings.precision.compute,
                answers=self._policy.group_size,
            )
            mesh, seed = self._program.mesh, self._settings.seed
            self._rollouts[rows] = Rollouts(mesh, shape, seed, self._calculator, self._program.compiler_options())
        return self._rollouts[rows]

    def _together(self, rewards: Callable[[], list[float]]) -> np.ndarray:
        """The rewards that process 0 found, on every process: float64 [prompt, answer].

        Its error is raised on every process.
        """
        found = decide(self._processes, self._root, lambda: {"rewards": rewards()})
        return np.array(found["rewards"], np.float64).reshape(-1, self._policy.group_size)

    def _placed(self, array: np.ndarray) -> jax.Array:
        """An array [row, position] as one of the step: [microbatch, batch, position]."""
        whole = array.reshape(self._program.microbatches, -1, array.shape[1])
        return jax.make_array_from_callback(whole.shape, self._program.batch_sharding, lambda index: whole[index])

    def _sampling_program(self) -> Callable[[TrainState], Model]:
        """A function from a state to the model that samples, for a run whose state keeps the weights that sample."""
        trained, steps = self._program.trained, self._policy.updates_per_rollout

        def whole(state: TrainState) -> Model:
            return joined(sampling_part(state, trained, steps), split(state.model, trained)[1])

        shardings = jax.tree.map(lambda leaf: leaf.sharding, self._program.template.model)
        return jax.jit(whole, out_shardings=shardings, compiler_options=self._program.compiler_options())

    def _comparison(self, objective: Policy) -> Callable[[Model, Batch, jax.Array], tuple[jax.Array, ...]]:
        """A function that computes the log-probabilities of a batch as the step does, and the greatest and the mean of
        their differences from given ones, over the tokens that count."""

        def every(model: Any, batch: Batch, given: jax.Array) -> tuple[jax.Array, ...]:
            if self._program.microbatches == 1:
                found = objective.log_probs(model, jax.tree.map(lambda rows: rows[0], batch))[None]
            else:
                found = jax.lax.map(functools.partial(objective.log_probs, model), batch)
            apart, counts = jnp.abs(found - given), batch["weights"]
            return found, jnp.max(apart), jnp.sum(apart) / jnp.maximum(jnp.sum(counts), 1.0)

        whole, own = NamedSharding(self._program.mesh, PartitionSpec()), self._program.batch_sharding
        options = self._program.compiler_options()
        compiled = jax.jit(every, out_shardings=(own, whole, whole), compiler_options=options)

        def traced(model: Any, batch: Batch, given: jax.Array) -> tuple[jax.Array, ...]:
            with self._program.tracing():
                return compiled(model, batch, given)

        return traced


def _ends(tokenizer: Tokenizer, templates: Sequence[str | None]) -> tuple[int, ...]:
    """Tokens that end an answer: that of a document, and that of the assistant's turn in each template."""
    return tuple(sorted({token for template in set(templates) for token in ChatPrompts(tokenizer, template).ends}))
