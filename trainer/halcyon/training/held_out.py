"""The evaluations while a run trains: when they are due, what text they need, and their results on the whole, by source and by tag."""

from __future__ import annotations

from collections.abc import Callable

import jax

from halcyon.data.dataset import Dataset
from halcyon.data.held_out import HeldOut
from halcyon.optim.average import averaged_model
from halcyon.telemetry.evaluated_sets import EvaluatedSets
from halcyon.telemetry.evaluation import Evaluation, total
from halcyon.training.batch_source import BatchSource, Evaluates
from halcyon.training.compilation import compiler_options
from halcyon.training.evaluation import evaluate, make_evaluation_step
from halcyon.training.offload import on_devices
from halcyon.training.program import Program, padded_token_bytes
from halcyon.training.state import Model, TrainState
from halcyon_api.spec.evaluation import EVALUATION_BATCHES
from halcyon_api.spec.trainer import TrainerSpec


class TrainingEvaluation:
    """Evaluates the model of a training on the held-out part.

    Args:
        settings: ``spec.trainer``.
        program: The program of the run.
        dataset: Its data.
        batches: The source of its batches, which may have an evaluation of its own.
    """

    def __init__(self, settings: TrainerSpec, program: Program, dataset: Dataset, batches: BatchSource) -> None:
        self._settings, self._program, self._dataset, self._batches = settings, program, dataset, batches
        token_bytes = padded_token_bytes(dataset.tokenizer.token_bytes) if program.objective.per_token else None
        self._sums = jax.jit(make_evaluation_step(program.objective, token_bytes), compiler_options=program.compiler_options())
        last_k = program.template.average is not None and program.template.average.snapshots is not None
        self._averaged = jax.jit(averaged_model, compiler_options=compiler_options(runs_once=True)) if last_k else averaged_model
        self._count = settings.evaluation.batches or EVALUATION_BATCHES

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

    def of(self, state: TrainState, before_batch: Callable[[], object]) -> tuple[EvaluatedSets, Evaluation | None]:
        """Evaluate a state. A collective.

        Args:
            state: The state.
            before_batch: Called before each batch. It may raise an exception, at the same batch on all processes.

        Returns:
            The results of the model, and that of the average of its parameters; None: the run has no average.
        """
        model, reference, by_source = self._program.evaluated(state), state.reference, self._settings.evaluation.by_source
        if by_source is None:
            sets = EvaluatedSets(self._on(self._dataset, model, reference, before_batch))
        else:
            held_out = {name: part for name, part in self._dataset.each.items() if part.validation_sequences}
            found = {name: self._on(part, model, reference, before_batch) for name, part in held_out.items()}
            tags = {tag.name: tuple(name for name in tag.sources if name in found) for tag in by_source.tags}
            sets = EvaluatedSets(total(found.values()), found, {tag: names for tag, names in tags.items() if names})
        average = None
        if state.average is not None:
            average = self._on(self._dataset, self._averaged(on_devices(state.average), state.model), reference, before_batch)
        return sets, average

    def _on(self, held_out: HeldOut, model: Model, reference: Model | None, before_batch: Callable[[], object]) -> Evaluation:
        """The result of a model on a held-out part."""
        if isinstance(self._batches, Evaluates):
            return self._batches.evaluate(held_out, model, self._count, before_batch)
        with self._program.tracing():
            return evaluate(
                held_out,
                lambda batch: self._sums(model, batch, reference),
                batches=self._count,
                batch_size=self._settings.batch_size,
                microbatches=self._program.microbatches,
                sharding=self._program.batch_sharding,
                fields=self._program.objective.fields,
                before_batch=before_batch,
            )
