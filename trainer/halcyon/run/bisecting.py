"""The documents of the batches around a step, with the loss of each, and the steps again without some of them.

A replay whose batches pass through `LookedAt`, which sees each batch and the state before its step. For one process.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from halcyon.data.dataset import Dataset
from halcyon.data.examples import Batch
from halcyon.data.source_data import NO_SOURCE
from halcyon.host.errors import BadConfiguration, ReplayDiffers
from halcyon.host.storage.retry_budget import RetryBudget
from halcyon.run.context import Surroundings, resolve_context, retry_seconds, run_plan
from halcyon.run.train import train
from halcyon.step.batch_source import BatchSource, dataset_batches
from halcyon.step.objectives.next_token import NextToken
from halcyon.step.program import Program
from halcyon.step.state import TrainState
from halcyon.telemetry import EventLog, RunReporter, StepReport
from halcyon.telemetry.history.background import Listener, Row
from halcyon_api.spec.trainer import TrainerSpec

TEXT_CHARACTERS = 200
"""Of the text of a document that are shown."""
_CLOSE_SECONDS = 30.0
"""Longest wait for the history, which the caller removes with its folder."""


@dataclass(frozen=True, order=True)
class DocumentPlace:
    """Where a document is: ``STEP:ROW.NUMBER``, with the number of the document in its row."""

    step: int
    row: int
    number: int

    def __str__(self) -> str:
        return f"{self.step}:{self.row}.{self.number}"


@dataclass(frozen=True)
class DocumentLoss:
    """A document of a batch, or the part of it that is in a row.

    Attributes:
        place: Where it is.
        source: Name of its source.
        tokens: Its tokens whose loss counts.
        loss: Their mean loss before the step, in nats.
        raises: By how much it raises the loss of the step: that is higher by this than if its loss were the mean.
        text: The beginning of its text.
    """

    place: DocumentPlace
    source: str
    tokens: int
    loss: float
    raises: float
    text: str


@dataclass(frozen=True)
class Bisected:
    """What was found.

    Attributes:
        losses: The loss of each step, by its number.
        documents: The documents of the steps that were looked at.
    """

    losses: Mapping[int, float]
    documents: Sequence[DocumentLoss]


@dataclass(eq=False)
class LookedAt:
    """A source whose batches are looked at, and lose some documents. See `BatchSource`.

    Args:
        inner: The source.
        dataset: Its dataset.
        program: The program of the run.
        steps: The steps to look at, counted from 1.
        without: The documents whose tokens get weight 0.
        found: Receives the documents.

    Raises:
        BadConfiguration: The loss of the run is no sum over tokens.
    """

    inner: BatchSource
    dataset: Dataset
    program: Program
    steps: Collection[int]
    without: Collection[DocumentPlace]
    found: Callable[[DocumentLoss], object]

    def __post_init__(self) -> None:
        objective = self.program.objective
        if not isinstance(objective, NextToken):
            raise BadConfiguration(
                "spec.objective: only the loss of nextToken and conversations is a sum over documents"
            )
        self._objective = objective

    @property
    def last_wait_seconds(self) -> float:
        """See `BatchSource`."""
        return self.inner.last_wait_seconds

    def batch(self, step: int, state: TrainState) -> Batch:
        """See `BatchSource`."""
        batch, number = self.inner.batch(step, state), step + 1
        if number in self.steps:
            self._look(number, state, batch)
        gone = [place for place in self.without if place.step == number]
        return self._left_out(batch, gone) if gone else batch

    def close(self) -> None:
        """See `BatchSource`."""
        self.inner.close()

    def _look(self, number: int, state: TrainState, batch: Batch) -> None:
        with self.program.tracing():
            losses = np.asarray(token_losses(self._objective, state.model, batch))
        weights = np.asarray(batch[self._objective.weights]).reshape(-1, losses.shape[-1])
        losses, tokens = losses.reshape(weights.shape), np.asarray(batch["tokens"]).reshape(weights.shape)
        numbers, whole = _numbers(batch), float(weights.sum())
        if not whole:
            return
        mean = float((losses * weights).sum()) / whole
        rows, sources = self.dataset.train_rows(number - 1), self.dataset.sources
        for row in range(len(weights)):
            index = int(rows.source[row])
            for document in range(int(numbers[row].max()) + 1):
                inside = numbers[row] == document
                weight = float(weights[row][inside].sum())
                if not weight:
                    continue
                loss = float((losses[row] * weights[row])[inside].sum())
                self.found(
                    DocumentLoss(
                        DocumentPlace(number, row, document),
                        "" if index == NO_SOURCE else sources[index].name,
                        int(np.count_nonzero(weights[row][inside])),
                        loss / weight,
                        (loss - mean * weight) / whole,
                        self.dataset.tokenizer.decode(tokens[row][inside])[:TEXT_CHARACTERS],
                    )
                )

    def _left_out(self, batch: Batch, gone: Sequence[DocumentPlace]) -> Batch:
        """The batch in which the tokens of some documents have weight 0.

        Raises:
            BadConfiguration: It has no such document.
        """
        name, numbers = self._objective.weights, _numbers(batch)
        weights = np.array(batch[name])
        flat = weights.reshape(numbers.shape)
        for place in gone:
            if place.row >= len(numbers) or not (numbers[place.row] == place.number).any():
                raise BadConfiguration(f"--without {place}: the batch of step {place.step} has no such document")
            flat[place.row][numbers[place.row] == place.number] = 0
        return {**batch, name: jax.device_put(weights, batch[name].sharding)}


@functools.partial(jax.jit, static_argnums=0)
def token_losses(objective: NextToken, model: Any, batch: Batch) -> jax.Array:
    """The loss of each token in nats: float32 [microbatches, row, position]."""
    return jax.lax.map(lambda rows: objective.token_losses(model, rows), dict(batch))


def _numbers(batch: Batch) -> np.ndarray:
    """The number of the document of each token in its row: int [rows, position]. A row is one document if the run
    attends across documents.
    """
    shape = batch["tokens"].shape
    segments = np.asarray(batch["segments"]) if "segments" in batch else np.zeros(shape, np.int32)
    flat = segments.reshape(-1, shape[-1])
    return flat - flat[:, :1]


def bisect(
    document: Mapping[str, Any],
    steps: Collection[int],
    without: Collection[DocumentPlace],
    *,
    on_cpu: bool,
    say: Callable[[str], object],
) -> Bisected:
    """Compute the steps of a replay, and look at some of their batches.

    Args:
        document: The document of the replay.
        steps: The steps to look at.
        without: The documents to leave out.
        on_cpu: Compute on the processor instead of the document's accelerator.
        say: Is told what is known before the end, in sentences.

    Raises:
        BadConfiguration: The document is not valid, or there is no document to leave out.
        TrainerExit: The steps cannot be computed.
    """
    context = resolve_context(document, {}, on_cpu=on_cpu)
    losses: dict[int, float] = {}
    documents: dict[DocumentPlace, DocumentLoss] = {}
    reporter = RunReporter(context.identity, run_plan(context), _Log(say))
    reporter.listen(_Losses(losses))

    def source(dataset: Dataset, program: Program, settings: TrainerSpec) -> BatchSource:
        inner = dataset_batches(dataset, program, settings)
        # A replay that measures rounding computes the steps twice. The first time counts.
        return LookedAt(inner, dataset, program, steps, without, lambda one: documents.setdefault(one.place, one))

    try:
        budget = RetryBudget(retry_seconds(context))
        train(context, reporter, Surroundings(budget), compilation_cache=None, batch_source=source)
    except ReplayDiffers:  # the losses are shown as they are here
        pass
    finally:
        reporter.close_listeners(_CLOSE_SECONDS)
    return Bisected(losses, tuple(documents.values()))


class _Losses(Listener):
    """A listener that keeps the loss of each step."""

    def __init__(self, losses: dict[int, float]) -> None:
        self._losses = losses

    def record(self, row: Row) -> None:
        if isinstance(row.report, StepReport):
            self._losses[row.report.step] = row.report.loss


class _Log(EventLog):
    """A log of which only the warnings are said."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say

    def event(self, name: str, **fields: Any) -> None:
        """Say a warning."""
        if name == "warning":
            self._say(fields["message"])
