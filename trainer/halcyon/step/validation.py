"""Evaluations on the held-out part: sums of each batch on the devices, added up on the host; in a training also by
source and by tag.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from halcyon.data.dataset import Dataset, ValidationData
from halcyon.data.examples import Examples
from halcyon.data.loader import global_batch, padded_rows
from halcyon.data.source_data import BatchRows
from halcyon.optim.average import averaged_model
from halcyon.step.batch_source import BatchSource, Evaluates
from halcyon.step.compilation import compiler_options
from halcyon.step.objectives.objective import Batch, Objective
from halcyon.step.offload import on_devices
from halcyon.step.program import Program, padded_token_bytes
from halcyon.step.state import Model, TrainState
from halcyon.tokenizer import Tokenizer
from halcyon_api.spec.evaluation import EVALUATION_BATCHES
from halcyon_api.spec.trainer import TrainerSpec
from halcyon_api.status.evaluation import EvaluatedSets, Evaluation, total

Callback = Callable[[], object]
"""Called around a batch. It may raise an exception, at the same batch on all processes."""
_IN_FLIGHT = 2
"""Dispatched batches whose sums are not fetched yet: enough to keep the devices busy, few enough to use little memory.
"""


class EvaluationSums(NamedTuple):
    """Sums over one batch, scalars on the device."""

    nats: jax.Array
    """Weighted sum of losses: float32."""
    weight: jax.Array
    """Sum of weights: float32."""
    size_bytes: jax.Array
    """Bytes of the predicted tokens: int32."""
    right: jax.Array | None = None
    """Weighted sum of the right answers: float32. None: the objective has no accuracy."""


def make_evaluation_step(objective: Objective, token_bytes: np.ndarray | None) -> Callable[..., EvaluationSums]:
    """Build the function that computes the sums of one batch, to be compiled.

    Args:
        objective: The objective of the training.
        token_bytes: Bytes of text of each token id: int32 [vocabulary]. None: the loss is not one of tokens, so no
            bytes are counted.

    Returns:
        A function of the model, the batch and, for an objective that needs one, the reference model.
    """

    def batch_sums(model: Any, batch: Batch, reference: Any) -> EvaluationSums:
        sums = objective(model, batch, reference, None)
        if token_bytes is None:
            return EvaluationSums(sums.loss, sums.weight, jnp.zeros((), jnp.int32), sums.metrics.get("accuracy"))
        sizes = jnp.asarray(token_bytes, jnp.int32)[batch["targets"]]
        return EvaluationSums(sums.loss, sums.weight, jnp.sum(jnp.where(batch["weights"] > 0, sizes, 0)))

    def evaluation_step(model: Any, batch: Batch, reference: Any = None) -> EvaluationSums:
        batch = objective.prepared(model, batch)
        if len(jax.tree.leaves(batch)[0]) == 1:
            return batch_sums(model, jax.tree.map(lambda rows: rows[0], batch), reference)
        parts = jax.lax.map(lambda microbatch: batch_sums(model, microbatch, reference), batch)
        return jax.tree.map(jnp.sum, parts)

    return evaluation_step


def evaluate(
    validation: ValidationData,
    sums: Callable[[Batch], EvaluationSums],
    *,
    batches: int | None,
    batch_size: int,
    microbatches: int,
    sharding: Sharding,
    fields: Iterable[str],
    before_batch: Callback = lambda: None,
    on_batch: Callback = lambda: None,
) -> Evaluation:
    """Evaluate on the held-out part, on the same sequences every time.

    All processes call it at the same step. Each process builds only the rows of its own devices, and all get the same
    result. The last batch is filled with sequences of weight 0.

    Args:
        validation: The source of the examples.
        sums: The compiled function of `make_evaluation_step`, with the model as its first argument already bound.
        batches: The largest number of batches; None: all.
        batch_size: Sequences of a batch, over all devices.
        microbatches: Number of parts in which a batch is computed.
        sharding: Sharding of an array ``[microbatches, rows, length]``.
        fields: Names of the arrays of a batch, the same as in training.
        before_batch: Called before each batch is dispatched. It may raise an exception, at the same batch on all
            processes.
        on_batch: Called after the sums of each batch have been fetched.

    Raises:
        ValueError: Nothing is held out.
    """
    if validation.validation_sequences == 0:
        raise ValueError("nothing is held out for evaluation")
    begin = time.perf_counter()
    shape = (microbatches, padded_rows(batch_size, microbatches, sharding), validation.sequence_length)
    in_flight: deque[EvaluationSums] = deque()
    fetched: list[EvaluationSums] = []
    sequences = 0
    for rows in validation.validation_batches(batches, batch_size):
        before_batch()
        batch = global_batch(
            lambda mine, rows=rows: _padded_rows(validation, rows, mine), shape, sharding, fields=fields
        )
        in_flight.append(sums(batch))
        sequences += len(rows)
        if len(in_flight) > _IN_FLIGHT:
            fetched.append(jax.device_get(in_flight.popleft()))
            on_batch()
    for part in in_flight:
        fetched.append(jax.device_get(part))
        on_batch()
    return Evaluation(
        nats=math.fsum(float(part.nats) for part in fetched),
        weight=math.fsum(float(part.weight) for part in fetched),
        size_bytes=sum(int(part.size_bytes) for part in fetched),
        right=math.fsum(math.nan if part.right is None else float(part.right) for part in fetched),
        sequences=sequences,
        seconds=time.perf_counter() - begin,
    )


def _padded_rows(validation: ValidationData, rows: BatchRows, mine: np.ndarray) -> Examples:
    """The examples of some rows of a batch. Rows past the end of ``rows`` have weight 0."""
    there = mine[mine < len(rows)]
    return validation.examples(rows[there]).padded_to(len(mine))


class ValidationLoss:
    """The loss of a program's models on held-out sequences, compiled once.

    Args:
        program: The program of the run.
        tokenizer: The tokenizer of the sequences.
    """

    def __init__(self, program: Program, tokenizer: Tokenizer) -> None:
        token_bytes = padded_token_bytes(tokenizer.token_bytes) if program.objective.per_token else None
        self._program, self._compiling = program, threading.Lock()
        self._sums = jax.jit(
            make_evaluation_step(program.objective, token_bytes), compiler_options=program.compiler_options()
        )

    def compile(self, batch_size: int, sequence_length: int) -> None:
        """Compile the program for the model of a training, in another thread. `jax.jit` keeps it; `of` waits for it."""
        template, batch = self._program.template, self._program.batch_shapes(batch_size, sequence_length)
        with self._compiling, self._program.tracing():
            self._sums.lower(template.model, batch, template.reference).compile()

    def of(
        self,
        validation: ValidationData,
        model: Model,
        reference: Model | None,
        batches: int | None,
        batch_size: int,
        *,
        before_batch: Callback = lambda: None,
        on_batch: Callback = lambda: None,
    ) -> Evaluation:
        """Evaluate a model. See `evaluate`."""
        with self._compiling, self._program.tracing():
            return evaluate(
                validation,
                lambda batch: self._sums(model, batch, reference),
                batches=batches,
                batch_size=batch_size,
                microbatches=self._program.microbatches,
                sharding=self._program.batch_sharding,
                fields=self._program.objective.fields,
                before_batch=before_batch,
                on_batch=on_batch,
            )


class Validation:
    """Evaluates the model of a training on the held-out part.

    Args:
        settings: ``spec.trainer``.
        program: The program of the run.
        dataset: Its data.
        batches: The source of its batches, which may have an evaluation of its own.
    """

    def __init__(self, settings: TrainerSpec, program: Program, dataset: Dataset, batches: BatchSource) -> None:
        self._settings, self._program, self._dataset, self._batches = settings, program, dataset, batches
        self._loss = ValidationLoss(program, dataset.tokenizer)
        last_k = program.template.average is not None and program.template.average.snapshots is not None
        self._averaged = (
            jax.jit(averaged_model, compiler_options=compiler_options(runs_once=True)) if last_k else averaged_model
        )
        self._count = settings.evaluation.batches or EVALUATION_BATCHES

    def compile(self) -> None:
        """Compile what the first evaluation needs, in another thread."""
        if self._settings.evaluation.every_steps > 0 and not isinstance(self._batches, Evaluates):
            self._loss.compile(self._settings.batch_size, self._dataset.sequence_length)

    def is_due(self, step: int) -> bool:
        """Whether the model is evaluated after `step` steps."""
        every = self._settings.evaluation.every_steps
        return every > 0 and (step % every == 0 or step == self._settings.steps)

    def has_text(self) -> bool:
        """Whether this process has the text of an evaluation. While text is still tokenized, it may not."""
        sequences = self._count * self._settings.batch_size
        by_source = self._settings.evaluation.by_source
        waiting = () if by_source is None else tuple(self._dataset.each.values())
        return all(part.holds_validation(sequences) for part in waiting or (self._dataset,))

    def of(self, state: TrainState, before_batch: Callback) -> tuple[EvaluatedSets, Evaluation | None]:
        """Evaluate a state. A collective.

        Args:
            state: The state.
            before_batch: Called before each batch. It may raise an exception, at the same batch on all processes.

        Returns:
            The results of the model, and that of the average of its parameters; None: the run has no average.
        """

        def result_of(validation: ValidationData, model: Model) -> Evaluation:
            if isinstance(self._batches, Evaluates):
                return self._batches.evaluate(validation, model, self._count, before_batch)
            batch_size = self._settings.batch_size
            return self._loss.of(validation, model, state.reference, self._count, batch_size, before_batch=before_batch)

        model, by_source = state.model, self._settings.evaluation.by_source
        if by_source is None:
            sets = EvaluatedSets(result_of(self._dataset, model))
        else:
            validation = {name: part for name, part in self._dataset.each.items() if part.validation_sequences}
            found = {name: result_of(part, model) for name, part in validation.items()}
            tags = {tag.name: tuple(name for name in tag.sources if name in found) for tag in by_source.tags}
            sets = EvaluatedSets(total(found.values()), found, {tag: names for tag, names in tags.items() if names})
        if state.average is None:
            return sets, None
        return sets, result_of(self._dataset, self._averaged(on_devices(state.average), state.model))
