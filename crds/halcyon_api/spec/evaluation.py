"""``spec.trainer.evaluation``: when a run evaluates, the named sets of an evaluation, tasks, the best checkpoint and
early stopping.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, StringConstraints

from halcyon_api.base import ApiModel, AtLeastOne, Rule, RuledModel, StepNumber, optional
from halcyon_api.spec.sources import SourceName

EVALUATION_BATCHES = 8
"""Default of `EvaluationSpec.batches` while training."""


class TagSpec(ApiModel):
    """A named set of sources."""

    name: SourceName
    """Its name."""
    sources: Annotated[list[SourceName], Field(min_length=1, max_length=64)]
    """Names of its sources."""


class BySourceSpec(ApiModel):
    """The evaluation of each source alone."""

    tags: list[TagSpec] = Field(default=[], max_length=32)
    """Named sets of sources."""


class BestSpec(ApiModel):
    """The evaluation by which the best checkpoint is chosen, and the run stopped."""

    metric: Literal["loss", "bitsPerByte", "accuracy"] = "loss"
    """The number to minimise; `accuracy`, of `objective.classify` or `contrastive`, is maximised."""
    of: SourceName | None = None
    """A source, or a tag. Default: all sources."""
    average: Literal["micro", "macro"] = "micro"
    """Over tokens, or over sources."""
    patience: int | None = optional(ge=1, le=1_000_000)
    """Stop, as a success, after this many evaluations without improvement."""
    min_improvement: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Least change that counts."""

    @property
    def key(self) -> str:
        """Names the number that is compared: numbers of another key cannot be compared with it."""
        return f"{self.average} {self.metric} of {self.of or 'all sources'}"


class TasksSpec(ApiModel):
    """Tasks, from files in the trainer's file system.

    A model is asked in conversations, unless its objective is ``nextToken``.
    """

    files: Annotated[dict[str, Annotated[str, StringConstraints(max_length=512)]], Field(max_length=16)]
    """Path of each, by its name; `core`: the bundle of CORE."""
    every_steps: NonNegativeInt = 0
    """Also every N steps."""
    most: AtLeastOne | None = None
    """Most examples of each."""


class EvaluationSpec(RuledModel):
    """Loss and bits per byte on the held-out part."""

    every_steps: StepNumber = 0
    """Evaluate every N steps and after the last step; 0: never."""
    batches: int | None = optional(
        f"Maximum batches of the held-out part. Default: {EVALUATION_BATCHES} while training; all with task "
        "`evaluate`, where the maximum is per source.",
        ge=1,
        le=1_000_000,
    )
    by_source: BySourceSpec | None = None
    """Evaluate each source alone, on `batches` each."""
    best: BestSpec | None = None
    """Save a checkpoint at each improvement, and never delete the best."""
    tasks: TasksSpec | None = None
    """Tasks to run."""

    rules: ClassVar = (
        Rule(
            "!has(self.best) || self.everySteps > 0",
            "best needs evaluations; set everySteps",
            ".best",
        ),
        Rule(
            "!has(self.best) || has(self.bySource) || (!has(self.best.of) && self.best.average == 'micro')",
            "best.of and a macro average need bySource; set bySource: {}",
            ".best",
        ),
    )
