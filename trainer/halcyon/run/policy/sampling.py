"""Answers to the prompts of a batch by given weights, with their rewards and the engine's difference from the trainer.

The trainer samples with it, and so does a sampler of a pool (`halcyon.run.policy.sampler`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from halcyon.checkpoint.processes import decide
from halcyon.data.dataset import Dataset
from halcyon.data.examples import Batch
from halcyon.host.storage.store import Store
from halcyon.inference.calculator import Calculator
from halcyon.inference.chat import ChatPrompts
from halcyon.inference.rollout import (
    Answered,
    Drawn,
    Prompted,
    Rollouts,
    RolloutShape,
    Trainer,
    token_keys,
    token_noise,
)
from halcyon.models import CausalLM
from halcyon.run.place import Place
from halcyon.run.policy.ahead import Sampled
from halcyon.run.policy.answers import Question, Rows, prompted, questions, rows_of
from halcyon.run.policy.conversations import Outcome
from halcyon.run.policy.environment import Talks, problem
from halcyon.run.policy.rewards import RecordedRewards, Reward, no_rewards, reward_named
from halcyon.step.objectives.policy import Policy
from halcyon.step.program import Program
from halcyon.step.state import Model
from halcyon.tokenizer import Tokenizer

TRAINING = 1
"""The purpose of the answers of training, as a number for their keys."""
_REQUEST_SECONDS = 60.0
_TRIES = 3
"""Times that the conversations of a batch begin if the process of their environment is lost."""


class Sampling:
    """Samples the answers of batches.

    Args:
        dataset: The data set; its sources hold prompts.
        program: The program of the run.
        place: The run, with ``objective.policy``. Its checkpoint root keeps the samples.
        committed: Returns the step of the newest checkpoint.
    """

    def __init__(self, dataset: Dataset, program: Program, place: Place, committed: Callable[[], int]) -> None:
        spec, objective = place.spec, program.objective
        policy = spec.objective.policy
        if policy is None or not isinstance(objective, Policy):
            raise TypeError("the run has no objective.policy")
        self._dataset, self._program, self._settings = dataset, program, spec.trainer
        self._processes, self.policy = place.processes, policy
        store = Store(spec.checkpoint, timeout_seconds=_REQUEST_SECONDS)
        self._root = store.root
        talks = policy.environment is not None
        reward = Reward(policy.reward, no_rewards, is_pure=True) if talks else reward_named(policy.reward)
        self.rewards = RecordedRewards(
            reward, dataset.tokenizer, policy.group_size, store, place.reporter.warning, committed
        )
        self.width = spec.trainer.sequence_length - policy.max_tokens
        formats = [source.format.conversation for source in spec.data.sources]
        templates = [one.template for one in formats if one is not None]
        self._ends = _ends(dataset.tokenizer, templates)
        self._calculator = Calculator.of(dataset.tokenizer) if None in templates and not talks else None
        self._talks = Talks(policy, dataset.tokenizer, templates, self._processes, store.root) if talks else None
        self._on_warning = place.reporter.warning
        self._rollouts: dict[int, Rollouts] = {}
        self._compared = self._comparison(objective)
        is_exact = policy.exact if policy.exact is not None else spec.trainer.precision.compute == "float32"
        self._trainer = self._forward_pass(objective) if is_exact else None

    def asked(self, number: int) -> list[Question]:
        """The prompts of a batch."""
        return questions(self._dataset, self._dataset.train_rows(number)[:: self.policy.group_size])

    def rows(self, asked: Sequence[Question], answered: Answered, contexts: Sequence[Sequence[int]] = ()) -> Rows:
        """The rows of prompts, or of other tokens in their place, with their answers."""
        prompts = self._prompted(asked, contexts)
        return rows_of(prompts, answered, self._settings.sequence_length, self._dataset.tokenizer.pad_id)

    def arrays(self, rows: Rows) -> Batch:
        """The arrays of a batch."""
        arrays = {"tokens": rows.tokens, "targets": rows.targets, "weights": rows.weights}
        return {name: self.placed(array) for name, array in arrays.items()}

    def placed(self, array: np.ndarray) -> jax.Array:
        """An array [row, position] as one of the step: [microbatch, batch, position]."""
        whole = array.reshape(self._program.microbatches, -1, array.shape[1])
        return jax.make_array_from_callback(whole.shape, self._program.batch_sharding, lambda index: whole[index])

    def _prompted(self, asked: Sequence[Question], contexts: Sequence[Sequence[int]], first: int = 0) -> Prompted:
        if not contexts:
            return prompted(asked, self.policy.group_size, self.width, first)
        of_rows = [Question(np.array(tokens, np.int32), "") for tokens in contexts]
        return prompted(of_rows, 1, self.width, first * self.policy.group_size)

    def answers(
        self, model: Model, asked: Sequence[Question], purpose: int, batch: int, first: int = 0, recorded: Any = None
    ) -> tuple[Answered, Sequence[Sequence[int]], Sequence[Outcome]]:
        """Answers to prompts, and with an environment what stands before each and how it ended. A collective.

        Args:
            model: The weights.
            asked: The prompts.
            purpose: See `halcyon.inference.rollout.Rollouts`, as for the batch.
            batch: The number of the batch.
            first: The number of the first prompt.
            recorded: A rollout whose environment's words are taken. None: the environment says them.
        """
        trainer = self._trainer if purpose == TRAINING else None
        if self._talks is None:
            prompts = self._prompted(asked, (), first)
            return self.sampler(len(prompts.counts))(model, prompts, purpose, batch, trainer), (), ()
        for left in reversed(range(_TRIES)):  # nothing of a lost environment is kept, so all begins again
            with self._talks.of_batch(asked, self.policy.group_size, self.width, self.text, recorded) as talk:
                prompts = self._prompted(asked, talk.contexts, first)
                answered = self.sampler(len(prompts.counts))(model, prompts, purpose, batch, trainer, talk)
                outcomes = talk.finish(answered)
            if not (left and talk.is_lost):
                return answered, talk.contexts, outcomes
        raise AssertionError("the last try returns")

    def text(self, question: Question) -> str:
        """The text of a prompt."""
        return self._dataset.tokenizer.decode(question.tokens)

    def close(self) -> None:
        """End the process of the environment."""
        if self._talks is not None:
            self._talks.close()

    def sampled(self, number: int, model: Model, step: int, recorded: Any = None) -> Sampled:
        """The answers of a batch. A collective.

        Args:
            number: The number of the batch.
            model: The weights.
            step: The step that trains on them, counted from 1.
            recorded: See `answers`.

        Raises:
            TrainerExit: See `halcyon.run.policy.rewards.Reward.of`, and `halcyon.run.policy.environment.problem`.
        """
        asked = self.asked(number)
        answered, contexts, outcomes = self.answers(model, asked, TRAINING, number, recorded=recorded)
        given = [one.reward for one in outcomes] if outcomes else None
        if (warning := problem(outcomes, self.policy)) is not None:
            self._on_warning(f"step {step}: {warning}")
        rewards = self.together(lambda: self.rewards.of_step(step, asked, answered, given))
        rows = self.rows(asked, answered, contexts)
        of_trainer, *both = self._compared(model, self.arrays(rows), self.placed(rows.log_probs))
        most, mean = (float(x) for x in jax.device_get(both))
        of_trainer = of_trainer if self.policy.has_sampler else None
        return Sampled(answered, rewards, (most, mean), of_trainer, contexts, [one[:2] for one in outcomes])

    def sampler(self, rows: int) -> Rollouts:
        """What samples a number of answers."""
        if rows not in self._rollouts:
            shape = RolloutShape(
                rows=rows,
                prompt=self.width,
                answer=self.policy.max_tokens,
                tokens=self._dataset.tokenizer.vocab_size,
                temperature=self.policy.temperature,
                ends=self._ends,
                dtype=self._settings.precision.compute,
                answers=self.policy.group_size if self._talks is None else 1,
            )
            mesh, seed = self._program.mesh, self._settings.seed
            is_sharded, options = bool(self.policy.sharded), self._program.compiler_options()
            self._rollouts[rows] = Rollouts(mesh, shape, seed, self._calculator, is_sharded, options)
        return self._rollouts[rows]

    def together(self, rewards: Callable[[], list[float]]) -> np.ndarray:
        """The rewards that process 0 found, on every process: float64 [prompt, answer].

        Its error is raised on every process.
        """
        found = decide(self._processes, self._root, lambda: {"rewards": rewards()})
        return np.array(found["rewards"], np.float64).reshape(-1, self.policy.group_size)

    def _forward_pass(self, objective: Policy) -> Trainer:
        """Draws the tokens of answers again, as the step computes their log-probabilities."""
        tokens = self._dataset.tokenizer.vocab_size

        def of_rows(model: Any, numbers: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
            keys = token_keys(batch["prompts"], batch["answers"], batch["places"], numbers)
            return objective.draws(model, batch, keys, functools.partial(token_noise, tokens=tokens))

        whole = NamedSharding(self._program.mesh, PartitionSpec())
        compiled = jax.jit(
            lambda model, numbers, batch: self._by_microbatch(functools.partial(of_rows, model, numbers), batch),
            out_shardings=whole,
            compiler_options=self._program.compiler_options(),
        )

        def drawn(model: CausalLM, prompted: Prompted, answered: Answered, numbers: np.ndarray) -> Drawn:
            rows = rows_of(prompted, answered, self._settings.sequence_length, self._dataset.tokenizer.pad_id)
            first = prompted.counts[:, None] - 1
            places = np.maximum(np.arange(self._settings.sequence_length) - first, 0).astype(np.uint32)
            prompts, answers = (np.broadcast_to(x[:, None], places.shape) for x in prompted[2:])
            numbered = {"prompts": prompts, "answers": answers, "places": places}
            batch = {**self.arrays(rows), **{name: self.placed(array) for name, array in numbered.items()}}
            with self._program.tracing():
                found = jax.device_get(compiled(model, numbers, batch))
            here = np.minimum(first + np.arange(self.policy.max_tokens), self._settings.sequence_length - 1)
            return Drawn(*(np.take_along_axis(np.reshape(x, places.shape), here, 1) for x in found))

        return drawn

    def _by_microbatch(self, function: Callable[[Batch], Any], batch: Batch) -> Any:
        if self._program.microbatches > 1:
            return jax.lax.map(function, batch)
        return jax.tree.map(lambda x: x[None], function(jax.tree.map(lambda rows: rows[0], batch)))

    def _comparison(self, objective: Policy) -> Callable[[Model, Batch, jax.Array], tuple[jax.Array, ...]]:
        """A function that computes the log-probabilities of a batch as the step does, and the greatest and the mean of
        their differences from given ones, over the tokens that count."""

        def every(model: Any, batch: Batch, given: jax.Array) -> tuple[jax.Array, ...]:
            found = self._by_microbatch(functools.partial(objective.log_probs, model), batch)
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
