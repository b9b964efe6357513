"""``spec.data``: what is trained on, in which order, and where its tokens are kept."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from halcyon_api.base import ApiModel, ObjectName, OneOf, Rule
from halcyon_api.spec.sources import DataSourceSpec, SourceName

_CACHE_PATTERN = r"^(file://(/[A-Za-z0-9._=-]+)+|(s3|gs)://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._=-]+)+)/?$"


class ValidationSpec(ApiModel):
    """The part that is never trained on."""

    fraction: float = Field(
        default=0.01,
        ge=0,
        le=0.5,
        description="Share of each source's sequences held out for evaluation. They are chosen before the shuffle.",
    )


class RandomOrderSpec(ApiModel):
    """Every order of the sequences is equally likely."""


class BlockOrderSpec(ApiModel):
    """Blocks of neighbours in random order, and a random order inside a window of blocks: fewer, larger reads from an object store."""

    block_sequences: Annotated[int, Field(ge=1, le=16_777_216)] = Field(default=256, description="Sequences of a block: one read.")
    window_blocks: Annotated[int, Field(ge=1, le=65_536)] = Field(
        default=512, description="Blocks whose sequences are shuffled together; so many are held in memory."
    )


class WindowOrderSpec(ApiModel):
    """Windows of neighbours one after the other, each shuffled in itself, anew in every epoch."""

    sequences: Annotated[int, Field(ge=2, le=1_073_741_824)] = Field(
        default=16_384, description="Training sequences of a window. Only the last window of an epoch may have fewer."
    )


class SequentialOrderSpec(ApiModel):
    """The order of the text, every epoch the same."""


class OrderSpec(OneOf):
    """The order of a source's sequences, drawn anew for every epoch: exactly one member."""

    random: RandomOrderSpec | None = Field(default=None, description="A true shuffle.")
    blocks: BlockOrderSpec | None = Field(default=None, description="A shuffle of blocks, for cold object stores.")
    windows: WindowOrderSpec | None = Field(
        default=None, description="A shuffle inside windows of the text: training may begin while the token cache is still being built."
    )
    sequential: SequentialOrderSpec | None = Field(
        default=None, description="No shuffle: training may begin while the token cache is still being built."
    )


class SourceWeightSpec(ApiModel):
    """The weight of one source."""

    source: SourceName = Field(description="Name of the source.")
    weight: Annotated[float, Field(ge=0, le=1_000_000_000_000)] = Field(description="Its share, relative to the other weights.")


class MixtureScheduleEntry(ApiModel):
    """The weights from a step on."""

    from_step: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(description="First step (counted from 0) with these weights.")
    weights: Annotated[list[SourceWeightSpec], Field(min_length=1, max_length=64)] = Field(
        description="Weights from here on; a source that is not named has none."
    )


class MixtureSpec(ApiModel):
    """How the sources are mixed."""

    block_sequences: Annotated[int, Field(ge=1, le=65_536)] = Field(
        default=2048,
        description="In every so many sequences each source has its share exactly, to a sequence; their order is random.",
    )
    schedule: Annotated[list[MixtureScheduleEntry], Field(max_length=32)] = Field(
        default=[], description="Other weights from certain steps on, in rising order of steps."
    )
    stop: Literal["restart", "firstExhausted", "allExhausted"] = Field(
        default="restart",
        description=(
            "`restart`: an exhausted source begins its next epoch, in a new order. `firstExhausted`, `allExhausted`: a run with more steps "
            "than the first source, or all sources, have data for is refused at its start."
        ),
    )
    last_batch: Literal["pad", "drop"] = Field(
        default="drop", description="Where the data ends inside a batch: fill it with sequences of weight 0, or leave it out."
    )
    simulate_tokens: Annotated[int, Field(ge=1, le=1_000_000_000_000_000)] | None = Field(
        default=None,
        description=(
            "Rehearse a run over so many tokens: of each source only the part is used that gives as many epochs in this shorter run."
        ),
    )


class CacheSpec(ApiModel):
    """Where the tokens are kept, and how they are made and read. Changing this changes no batch."""

    root: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        default=None,
        description=(
            "Address that runs of the same data may share: file:///PATH, s3://BUCKET/PATH or gs://BUCKET/PATH. Default: `data` below "
            "`checkpoint.root`. An S3 store's endpoint, region and credentials are those of `checkpoint`."
        ),
        json_schema_extra={"pattern": _CACHE_PATTERN},
    )
    workers: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="Processes that tokenize, on the one host that builds the cache; 0: one for each processor."
    )
    shard_tokens: Annotated[int, Field(ge=1024, le=17_179_869_184)] = Field(
        default=67_108_864, description="Tokens of a shard, about: the unit of resuming a build."
    )
    memory_mebibytes: Annotated[int, Field(ge=1, le=1_048_576)] = Field(
        default=1024, description="Tokens kept in the memory of each process that reads from an object store."
    )


class DataVolumeSpec(ApiModel):
    """A volume with data, mounted read-only in every pod."""

    claim: ObjectName = Field(description="PersistentVolumeClaim of the run's namespace.")
    mount_path: Annotated[str, StringConstraints(max_length=256, pattern=r"^(/[A-Za-z0-9._-]+)+$")] = Field(
        description="Where the pods see it."
    )


def _unknown_sources(data: DataSpec) -> list[str]:
    """The names in the mixture's schedule that no source has."""
    named = {share.source for entry in data.mixture.schedule for share in entry.weights}
    return sorted(named - {source.name for source in data.sources})


class DataSpec(ApiModel):
    """What is trained on, and in which order."""

    sources: Annotated[
        list[DataSourceSpec],
        Field(
            min_length=1,
            max_length=64,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = Field(description="The sources of text.")
    mixture: MixtureSpec = Field(default_factory=MixtureSpec, description="How the sources are mixed.")
    order: OrderSpec = Field(
        default_factory=lambda: OrderSpec(random=RandomOrderSpec()), description="The order inside a source: exactly one member."
    )
    validation: ValidationSpec = Field(default_factory=ValidationSpec, description="The held-out part.")
    attend_across_documents: bool = Field(
        default=False, description="true: a token also sees earlier documents of its sequence. false: its own alone."
    )
    cache: CacheSpec = Field(default_factory=CacheSpec, description="Where the tokens are kept.")
    volume: DataVolumeSpec | None = Field(default=None, description="A volume with data.")

    rules: ClassVar = (
        Rule(
            "self.sources.all(source, has(source.weight)) || !self.sources.exists(source, has(source.weight))",
            lambda self: len({source.weight is None for source in self.sources}) == 1,
            "give every source a weight, or none",
            ".sources",
        ),
        Rule(
            "!self.sources.exists(source, has(source.weight)) || self.sources.exists(source, has(source.weight) && source.weight > 0.0)",
            lambda self: any(source.weight is None or source.weight > 0 for source in self.sources),
            "at least one source needs a weight above 0",
            ".sources",
        ),
        Rule(
            "self.mixture.schedule.all(entry, entry.weights.all(share, self.sources.exists(source, source.name == share.source)))",
            lambda self: not _unknown_sources(self),
            "mixture.schedule names a source that is not in sources",
            ".mixture.schedule",
            lambda self: f" ({', '.join(_unknown_sources(self))})",
        ),
    )

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
