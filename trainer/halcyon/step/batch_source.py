"""Where the loop gets the batch of a step.

A batch is a pure function of the run's seed, the step and the training state. So a run that resumes from a checkpoint
gets the batches that it would have got without the restart, and no source has a state of its own to save. A source of
text looks at the step alone and can make batches ahead; a source of rollouts samples from the model in the state.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from halcyon.data.dataset import Dataset, ValidationData
from halcyon.data.examples import Batch
from halcyon.data.loader import Loader
from halcyon.step.program import Program
from halcyon.step.state import Model, TrainState
from halcyon_api.spec.trainer import TrainerSpec
from halcyon_api.status.evaluation import Evaluation


class BatchSource(Protocol):
    """The batches of a training by step."""

    @property
    def last_wait_seconds(self) -> float:
        """How long the last call of `batch` waited for data on this host, in seconds."""
        ...

    def batch(self, step: int, state: TrainState) -> Batch:
        """The batch of the ``(step + 1)``-th optimizer step.

        Args:
            step: Steps done before.
            state: The state after these steps. It may still be in computation, so a source that reads its numbers on
                the host waits for the device. The step donates its buffers: a source must not keep it.

        Returns:
            The arrays that the objective declares, [microbatches, batch, position]; the same on every mesh and after
            every restart.
        """
        ...

    def close(self) -> None:
        """End the threads. Batches handed out stay valid."""
        ...


@runtime_checkable
class HasNumbers(Protocol):
    """A source that knows numbers of its batches, such as rewards."""

    @property
    def numbers(self) -> Mapping[str, float]:
        """Numbers of the last batch by name, for the report of its step; the same on all processes."""
        ...


@runtime_checkable
class Waits(Protocol):
    """A source whose batches come from other processes."""

    def coming(self, step: int, state: TrainState) -> Callable[[float], bool] | None:
        """Called on all processes before `BatchSource.batch`, with its arguments.

        Returns:
            A function that waits at most this number of seconds for the batch, and returns whether it is there; None:
            no process waits.
        """
        ...


@runtime_checkable
class Evaluates(Protocol):
    """A source that evaluates the model itself, in the place of the loss of the objective."""

    def evaluate(
        self, validation: ValidationData, model: Model, batches: int | None, before_batch: Callable[[], object]
    ) -> Evaluation:
        """The result on held-out sequences. All processes call it at the same step.

        Args:
            validation: The sequences.
            model: The model.
            batches: The largest number of batches; None: all.
            before_batch: Called before each batch. It may raise an exception, at the same batch on all processes.
        """
        ...


BuildBatchSource = Callable[[Dataset, Program, TrainerSpec], BatchSource]
"""Makes the source of a training, once its text and its program are open."""


def dataset_batches(dataset: Dataset, program: Program, settings: TrainerSpec) -> BatchSource:
    """The source of a run that trains on its dataset."""
    return Loader(
        dataset,
        microbatches=program.microbatches,
        sharding=program.batch_sharding,
        fields=program.objective.fields,
        last_step=settings.steps,
    )
