"""``spec.trainer``: how long, how large a batch, in which precision, and how often the run looks at itself."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from halcyon_api.base import ApiModel

PositiveStep = Annotated[int, Field(ge=1, le=1_000_000_000)]


EVALUATION_BATCHES = 8
"""Batches of an evaluation while training, where the document does not say how many."""


NARROW_MOMENTS_BETA = 0.95
"""Largest decay rate of a moment in bfloat16. Neighbours of that type are up to 2**-7 apart, so rounding ends a decay by a share of
1 - beta where the moment is still off by 2**-8 / (1 - beta): 8 % for 0.95, 39 % for 0.99, and for 0.999 it never moves."""


class PrecisionSpec(ApiModel):
    """Which floating-point types hold parameters and moments and carry the matrix products."""

    parameters: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description=(
            "Type in which parameters are kept. With bfloat16, an update that is smaller than about 1/512 of its parameter is lost in "
            "rounding."
        ),
    )
    moments: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description=(
            "Type in which the moments of the optimizer are kept. bfloat16 needs `beta1` and `beta2` of at most "
            f"{NARROW_MOMENTS_BETA}: a moment that decays more slowly stands still between two numbers of the type."
        ),
    )
    compute: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description=(
            "Type of activations and matrix products. Softmax, norms, the loss, and sums of gradients over batch and positions stay "
            "float32."
        ),
    )


class EvaluationSpec(ApiModel):
    """Loss and bits per byte on the held-out part."""

    every_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = Field(
        default=0, description="Evaluate after every so many steps and after the last one; 0: never."
    )
    batches: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None,
        description=(
            f"At most so many batches of the held-out part. Default: {EVALUATION_BATCHES} while training, all with task `evaluate`, where "
            "it counts for each source."
        ),
    )


BatchSize = Annotated[int, Field(ge=1, le=16_777_216)]
SequenceLength = Annotated[int, Field(ge=2, le=16_777_216)]


class BatchScheduleEntry(ApiModel):
    """Other sizes from a step on. What is not given stays as it was."""

    from_step: PositiveStep = Field(description="First step (counted from 0) with these sizes.")
    batch_size: BatchSize | None = Field(default=None, description="Sequences of one step.")
    sequence_length: SequenceLength | None = Field(
        default=None, description="Tokens of a sequence. All lengths of a run must divide the longest one."
    )


class TrainerSpec(ApiModel):
    """The training loop."""

    steps: PositiveStep = Field(description="Optimizer steps of the whole run.")
    batch_size: BatchSize = Field(
        description="Sequences of one step, over all devices. A multiple of the data parallelism times `microbatches`."
    )
    sequence_length: SequenceLength = Field(default=1024, description="Tokens of a sequence.")
    batch_schedule: Annotated[list[BatchScheduleEntry], Field(max_length=32)] = Field(
        default=[], description="Other batch sizes and sequence lengths from certain steps on, in rising order of steps."
    )
    microbatches: Annotated[int, Field(ge=1, le=65_536)] = Field(
        default=1,
        description="Parts in which a step's batch is computed, one after the other, to save memory. The result is the same.",
    )
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = Field(
        default=0, description="Seed of the initial parameters and of the order of the data."
    )
    precision: PrecisionSpec = Field(default_factory=PrecisionSpec, description="Floating-point types.")
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec, description="Evaluation during the run.")
    log_every_steps: PositiveStep = Field(default=1, description="Write a line of metrics after every so many steps.")

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest sequence of the run."""
        return max(self.sequence_length, *(entry.sequence_length or 0 for entry in self.batch_schedule), 0)

    @property
    def tokens(self) -> int:
        """Tokens of the whole run: the sum of batch size times sequence length over its steps."""
        total, first, batch_size, sequence_length = 0, 0, self.batch_size, self.sequence_length
        for entry in self.batch_schedule:
            end = min(entry.from_step, self.steps)
            total += (end - first) * batch_size * sequence_length
            first, batch_size = end, entry.batch_size or batch_size
            sequence_length = entry.sequence_length or sequence_length
        return total + (self.steps - first) * batch_size * sequence_length

    @model_validator(mode="after")
    def _batch_schedule_rises(self) -> Self:
        first = 0
        for entry in self.batch_schedule:
            if entry.from_step <= first:
                raise ValueError("batchSchedule must be in rising order of fromStep")
            first = entry.from_step
        return self
