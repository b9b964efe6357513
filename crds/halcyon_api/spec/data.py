"""``spec.data``: the training data, its order, and the token cache."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from halcyon_api.base import ApiModel, ObjectName, OneOf, Rule, RuledModel, StepCount, optional
from halcyon_api.spec.checkpoint import ADDRESS_SCHEMA, Address
from halcyon_api.spec.sources import DataSourceSpec, SourceName


class ValidationSpec(ApiModel):
    """The held-out part, which is never trained on."""

    fraction: float = Field(default=0.01, ge=0, le=0.5)
    """Share of each source's sequences that is held out for evaluation, chosen before the shuffle."""


class RandomOrderSpec(ApiModel):
    """A full shuffle: every order of the sequences is equally likely."""


class BlockOrderSpec(ApiModel):
    """Blocks of neighbouring sequences in random order, shuffled within a window of blocks: fewer, larger reads from an
    object store.
    """

    block_sequences: Annotated[int, Field(ge=1, le=16_777_216)] = 256
    """Sequences of a block, which is one read."""
    window_blocks: Annotated[int, Field(ge=1, le=65_536)] = 512
    """Blocks of a window, whose sequences are shuffled together and held in memory."""


class WindowOrderSpec(ApiModel):
    """Windows of neighbouring sequences, one after the other. Each window is shuffled, differently in every epoch."""

    sequences: Annotated[int, Field(ge=2, le=1_073_741_824)] = 16_384
    """Training sequences of a window. Only the last window of an epoch may be smaller."""


class SequentialOrderSpec(ApiModel):
    """The order of the text, the same in every epoch."""


class OrderSpec(OneOf):
    """The order of a source's sequences: exactly one member. Every epoch has a new order, unless `sequential`."""

    random: RandomOrderSpec | None = None
    """A full shuffle."""
    blocks: BlockOrderSpec | None = None
    """A shuffle of blocks, for slow object stores."""
    windows: WindowOrderSpec | None = None
    """A shuffle inside windows of the text: training may begin while the token cache is still being built."""
    sequential: SequentialOrderSpec | None = None
    """No shuffle: training may begin while the token cache is still being built."""


class SourceWeightSpec(ApiModel):
    """The weight of one source."""

    source: SourceName
    """Name of the source."""
    weight: Annotated[float, Field(ge=0, le=1_000_000_000_000)]
    """Share, relative to the other weights."""


class MixtureScheduleEntry(ApiModel):
    """The weights from one step on."""

    from_step: StepCount
    """First step (counted from 0) with these weights."""
    weights: Annotated[list[SourceWeightSpec], Field(min_length=1, max_length=64)]
    """Weights from this step on. A source that is not listed has weight 0."""


class MixtureSpec(ApiModel):
    """How the sources are mixed."""

    block_sequences: Annotated[int, Field(ge=1, le=65_536)] = 2048
    """Sequences of a mixture block. In each block every source has its exact share, rounded to sequences, in random
    order."""
    schedule: list[MixtureScheduleEntry] = Field(default=[], max_length=32)
    """Other weights from given steps on, in rising order of `fromStep`."""
    stop: Literal["restart", "firstExhausted", "allExhausted"] = "restart"
    """`restart`: an exhausted source begins its next epoch, in a new order. `firstExhausted`: a run that needs more
    data than the first exhausted source has is rejected at its start. `allExhausted`: the same for the last exhausted
    source."""
    last_batch: Literal["pad", "drop"] = "drop"
    """If the data ends inside a batch: `pad` fills it with sequences of weight 0, `drop` leaves it out."""
    simulate_tokens: int | None = optional(ge=1, le=1_000_000_000_000_000)
    """Simulate a run over this many tokens: only a part of each source is used, so that this shorter run has as many
    epochs of it."""


class CacheSpec(ApiModel):
    """The token cache: where it is kept, and how it is built and read. These settings do not change any batch."""

    root: Address | None = optional(json_schema_extra=ADDRESS_SCHEMA)
    """Address of the token cache, of the kinds of `checkpoint.root`. Runs with the same data may share it. Default:
    `data` below `checkpoint.root`. S3 settings: as in `checkpoint`."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that tokenize, on the one host that builds the cache; 0: one per CPU."""
    shard_tokens: Annotated[int, Field(ge=1024, le=17_179_869_184)] = 67_108_864
    """Approximate tokens of a shard. An interrupted build resumes at a shard."""
    memory_mebibytes: Annotated[int, Field(ge=1, le=1_048_576)] = 1024
    """Memory for tokens, in MiB, in each process that reads from an object store."""


class DataVolumeSpec(ApiModel):
    """A volume with data, mounted read-only in every pod."""

    claim: ObjectName
    """PersistentVolumeClaim in the run's namespace."""
    mount_path: Annotated[str, StringConstraints(max_length=256, pattern=r"^(/[A-Za-z0-9._-]+)+$")]
    """Mount path in the pods."""


def _unknown_sources(data: DataSpec) -> list[str]:
    """The names in the mixture schedule that no source has."""
    named = {share.source for entry in data.mixture.schedule for share in entry.weights}
    return sorted(named - {source.name for source in data.sources})


class DataSpec(RuledModel):
    """The training data and its order."""

    sources: Annotated[
        list[DataSourceSpec],
        Field(
            min_length=1,
            max_length=64,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ]
    """The sources of text."""
    mixture: MixtureSpec = Field(default_factory=MixtureSpec)
    """How the sources are mixed."""
    order: OrderSpec = Field(default_factory=lambda: OrderSpec(random=RandomOrderSpec()))
    """Order of a source's sequences: exactly one member."""
    validation: ValidationSpec = Field(default_factory=ValidationSpec)
    """The held-out part, which is never trained on."""
    attend_across_documents: bool = False
    """true: a token also attends to earlier documents of its sequence. false: only to its own document."""
    cache: CacheSpec = Field(default_factory=CacheSpec)
    """The token cache."""
    volume: DataVolumeSpec | None = None
    """A volume with data."""

    rules: ClassVar = (
        Rule(
            "self.sources.all(source, has(source.weight)) || !self.sources.exists(source, has(source.weight))",
            "give every source a weight, or none",
            ".sources",
        ),
        Rule(
            "!self.sources.exists(source, has(source.weight)) || self.sources.exists(source, has(source.weight) && "
            "source.weight > 0.0)",
            "at least one source needs a weight above 0",
            ".sources",
        ),
        Rule(
            "self.mixture.schedule.all(entry, entry.weights.all(share, self.sources.exists(source, source.name == "
            "share.source)))",
            "mixture.schedule names a source that is not in sources",
            ".mixture.schedule",
            lambda self: f" ({', '.join(_unknown_sources(self))})",
        ),
    )

    def held_out(self, source: DataSourceSpec) -> float:
        """Share of a source that is held out."""
        return (source.validation or self.validation).fraction

    @model_validator(mode="after")
    def _mixture_fits(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError("two sources have one name; every source needs a name of its own")
        first = 0
        for entry in self.mixture.schedule:
            if entry.from_step <= first:
                raise ValueError("mixture.schedule must be in rising order of fromStep")
            first = entry.from_step
            if all(share.weight == 0 for share in entry.weights):
                raise ValueError(f"the entry of mixture.schedule from step {entry.from_step} needs a weight above 0")
        return self
