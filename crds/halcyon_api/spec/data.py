"""``spec.tokenizer`` and ``spec.data``: where the text comes from and how it becomes tokens."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from halcyon_api.base import ApiModel, OneOf, cel

SourceName = Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
PathPattern = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


VOCABULARY_MULTIPLE = 64
"""The model's vocabulary is the tokenizer's, rounded up to this, so that it can be split over a tensor axis of any usual size."""


class ByteTokenizerSpec(ApiModel):
    """Every byte is a token; three more mark the beginning, the end and padding. Nothing to train, nothing to download."""


class TokenizerSpec(OneOf):
    """The tokenizer: exactly one member."""

    byte: ByteTokenizerSpec | None = Field(default=None, description="One token for each byte of UTF-8, and three special ones.")


class StdlibSourceSpec(ApiModel):
    """The Python standard library of the trainer's interpreter: real text that is on every machine."""

    include: Annotated[
        list[Literal["source", "documentation"]],
        Field(min_length=1, max_length=2, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = Field(
        default=["source", "documentation"],
        description="`source`: the library's modules. `documentation`: the language reference that `help()` shows.",
    )


class TextSourceSpec(ApiModel):
    """Plain text files; one file is one document."""

    paths: Annotated[list[PathPattern], Field(min_length=1, max_length=64)] = Field(
        description="Files, directories (all files below) or globs, as the trainer's pods see them."
    )


class DataSourceSpec(OneOf):
    """One source of text: a name and exactly one kind."""

    name: SourceName = Field(description="Name of the source. It keys the source's order, so renaming a source reorders it.")
    stdlib: StdlibSourceSpec | None = Field(default=None, description="The Python standard library's own text.")
    text: TextSourceSpec | None = Field(default=None, description="Plain text files.")


class ValidationSpec(ApiModel):
    """The part that is never trained on."""

    fraction: float = Field(
        default=0.01,
        ge=0,
        le=0.5,
        description="Share of the sequences held out for evaluation. They are chosen before the shuffle.",
    )


class DataSpec(ApiModel):
    """What is trained on, and in which order."""

    sources: Annotated[
        list[DataSourceSpec],
        Field(
            min_length=1,
            max_length=1,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = Field(description="The sources of text. This version takes one.")
    shuffle: bool = Field(default=True, description="Train in an order drawn anew for every epoch; false: in the order of the text.")
    validation: ValidationSpec = Field(default_factory=ValidationSpec, description="The held-out part.")

    cel_rules: ClassVar = (cel("self.sources.size() == 1", "data.sources takes exactly one source in this version", field_path=".sources"),)
