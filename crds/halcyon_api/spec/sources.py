"""``spec.data.sources``: where the text is, the format of its rows, and the layout of documents into sequences."""

import datetime as dt
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, StringConstraints

from halcyon_api.base import ApiModel, OneOf, Ratio, Rule, RuledModel, optional, shows
from halcyon_api.spec.tokenizer import Uri

SourceName = Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
FieldName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Paths = Annotated[list[Uri], Field(min_length=1, max_length=256)]
Globs = Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=256)]], Field(max_length=64)]
OnBad = Literal["fail", "skip"]
RowNumber = Annotated[int, Field(ge=0, le=1_000_000_000_000)]


class StdlibSourceSpec(ApiModel):
    """The Python standard library of the trainer's interpreter: real text that every machine has."""

    include: list[Literal["source", "documentation"]] = Field(
        default=["source", "documentation"],
        min_length=1,
        max_length=2,
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    """`source`: the library's modules. `documentation`: the language reference that `help()` shows."""


class FilesSpec(ApiModel):
    """A source of files."""

    paths: Paths
    """Files, directories (of the kind's suffixes, not hidden) or globs: paths, file://,
    s3://, gs://, https:// or hf://datasets/…"""
    exclude: Globs = Field(default=[])
    """Globs of files and folders to leave out: `*.log`, `drafts/old`."""


class TextSourceSpec(FilesSpec):
    """Plain text files; one file is one document. Binary files are left out, unless `paths` names them."""


class JsonlSourceSpec(FilesSpec):
    """JSON Lines, plain, `.gz` or `.zst`; one line is one row.

    A file that holds one JSON array has its elements as rows.
    """


class CsvSourceSpec(FilesSpec):
    """CSV in UTF-8 with a header, plain, `.gz` or `.zst`; a record is a row whose fields are texts.

    Values in quotes may have line ends.
    """


class TsvSourceSpec(FilesSpec):
    """As `csv`, with tabs between the values."""


class ParquetSourceSpec(FilesSpec):
    """Parquet files; one row of a file is one row of the source."""


class HuggingFaceSourceSpec(ApiModel):
    """A data set by name, loaded with Hugging Face's `datasets`, which the image must contain."""

    dataset: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
    """Name of the data set, such as `OWNER/NAME`, or a directory that `datasets` can load."""
    config: FieldName | None = None
    """Configuration of the data set."""
    split: FieldName = "train"
    """Split of the data set."""
    revision: FieldName | None = None
    """Commit or tag. Set it: the newest version may change during a run."""


def _of_calendar(day: str) -> str:
    """Refuse a day that no month has."""
    try:
        dt.date.fromisoformat(day)
    except ValueError:
        raise ValueError(f"{day} is no day of the calendar; give one as YYYY-MM-DD") from None
    return day


Day = Annotated[
    str, StringConstraints(max_length=10, pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_of_calendar)
]

Template = Annotated[str, StringConstraints(max_length=65_536)]
Prefix = Annotated[str, StringConstraints(max_length=256)]


def _of_scalars(variables: dict[str, Any]) -> dict[str, Any]:
    """Refuse a variable that a line of Jinja cannot set."""
    for name, value in variables.items():
        if not name.isidentifier() or not isinstance(value, str | int | float):
            raise ValueError("give names of variables, each with a text, a number, true or false")
    return variables


Variables = Annotated[dict[str, Any], Field(max_length=16), AfterValidator(_of_scalars)]
_ANY_MEMBERS: dict[str, Any] = {"x-kubernetes-preserve-unknown-fields": True}

_DATE = "Day that the template prints with `strftime_now`: YYYY-MM-DD. Default: 2026-01-01."


class RowFormat(ApiModel):
    """A format whose rows have named fields."""

    @property
    def row_fields(self) -> tuple[str, ...]:
        """The fields of a row that the format reads."""
        names = (name for name in type(self).model_fields if name.endswith("field"))
        return tuple(value for name in names if (value := getattr(self, name)) is not None)


class TextFormatSpec(RowFormat):
    """Each row is a text."""

    field: FieldName = "text"
    """Field of a row that holds the text. Plain text files have no fields."""
    label_field: FieldName | None = None
    """Field with one of `model.labels`, or its number from 0, for `objective.classify`."""


class ChatFormatSpec(ApiModel):
    """Each row is a conversation."""

    messages_field: FieldName | None = None
    """Field with the messages. Default: the form of the first row is recognised: messages, ShareGPT, Alpaca, prompt and
    completion, KTO."""
    tools_field: FieldName | None = None
    """Field with the tools that the template shows. Default: `tools`, without `messagesField`."""
    template: Template | None = None
    """Jinja template; `{path: FILE}` in a file that `halcyon` reads. Default: that of the model of `from`, else that
    beside `tokenizer`, else Halcyon's."""
    template_variables: Variables | None = optional(json_schema_extra=_ANY_MEMBERS)
    """Defaults of its variables, as `{enable_thinking: false}`."""
    system_prompt: str | None = optional(max_length=16_384)
    """System message for conversations that have none."""
    date: Day | None = optional(_DATE)
    loss_on: Literal["assistant", "all"] = "assistant"
    """Which tokens count in the loss."""


class PreferenceFormatSpec(ApiModel):
    """Each row is a pair of conversations: a preferred one and a rejected one."""

    chosen_field: FieldName | None = None
    """Field with the preferred conversation or answer. Default: recognised, usually `chosen`."""
    rejected_field: FieldName | None = None
    """Field with the rejected one. Default: recognised."""
    prompt_field: FieldName | None = None
    """Field with the prompt, if the others hold answers. Default: recognised, unless both are named."""
    template: Template | None = None
    """As in `chat`."""
    template_variables: Variables | None = optional(json_schema_extra=_ANY_MEMBERS)
    """As in `chat`."""
    date: Day | None = None
    """As in `chat`."""


class PromptFormatSpec(ApiModel):
    """Each row is a prompt to answer, and a reference for the reward."""

    field: FieldName | None = None
    """Field with the prompt: a text, or messages. Default: recognised, as in `chat`."""
    reference_field: FieldName | None = None
    """Field with the reference. Default: the answer of the form, or the assistant's last message."""
    template: Template | None = None
    """As in `chat`."""
    template_variables: Variables | None = optional(json_schema_extra=_ANY_MEMBERS)
    """As in `chat`."""
    date: Day | None = None
    """As in `chat`."""


class PairFormatSpec(ApiModel):
    """Each row is a query, a text that belongs to it, and perhaps texts that do not."""

    query_field: FieldName = "anchor"
    """Field with the query."""
    positive_field: FieldName = "positive"
    """Field with the text, or a list that begins with it."""
    negative_fields: list[FieldName] = Field(default=[], max_length=64)
    """Fields with other texts, each one or a list."""
    negatives: int | None = optional("Number of them in a row. Default: one for each field.", ge=1, le=64)
    query_prefix: Prefix = ""
    """Put before a query, as `query: `."""
    text_prefix: Prefix = ""
    """Put before other texts."""

    @property
    def texts(self) -> int:
        """Texts of a row."""
        return 2 + (len(self.negative_fields) if self.negatives is None else self.negatives)

    @property
    def row_fields(self) -> tuple[str, ...]:
        """The fields of a row that the format reads."""
        return (self.query_field, self.positive_field, *self.negative_fields)


class PrebuiltFormatSpec(RowFormat):
    """Each row is a list of token ids."""

    tokens_field: FieldName = "tokens"
    """Field with the token ids."""
    weights_field: FieldName | None = None
    """Field with a loss weight, 0 to 1, for each token id."""


class SpeechFormatSpec(RowFormat):
    """Each row is a sound and what is said in it, for the family whisper."""

    audio_field: FieldName = "audio"
    """Field with the path of a sound below the folder of the row's file, or with its bytes."""
    text_field: FieldName = "text"
    """Field with what is said."""
    language: str | None = optional(pattern=r"^[a-z]{2,3}$", max_length=3)
    """As `en`: a text begins with Whisper's tokens of it. Default: what the tokenizer puts before a text."""


class FormatSpec(OneOf):
    """Format of the rows: exactly one member."""

    text: TextFormatSpec | None = None
    """A text."""
    chat: ChatFormatSpec | None = None
    """A conversation."""
    preference: PreferenceFormatSpec | None = None
    """A preferred and a rejected conversation."""
    prebuilt: PrebuiltFormatSpec | None = None
    """Token ids."""
    prompt: PromptFormatSpec | None = None
    """A prompt and a reference."""
    speech: SpeechFormatSpec | None = None
    """A sound and its text."""
    pair: PairFormatSpec | None = None
    """A query and its texts."""

    @property
    def conversation(self) -> ChatFormatSpec | PreferenceFormatSpec | PromptFormatSpec | None:
        """The format if its rows hold conversations, which a chat template prints; None: it is another one."""
        return self.chat or self.preference or self.prompt

    @property
    def row_fields(self) -> tuple[str, ...] | None:
        """The fields of a row that the format reads; None: those of a conversation, which have several forms."""
        return None if self.conversation is not None else getattr(self, self.kind).row_fields


CONVERSATION_FORMATS = ("chat", "preference", "prompt")
"""The formats of `FormatSpec.conversation` in a document."""


class ConcatenateSpec(ApiModel):
    """All documents one after the other, cut every `sequenceLength` tokens.

    Only the last sequence may be dropped or padded.
    """


class PackSpec(ApiModel):
    """Each sequence holds whole neighbouring documents, as many as fit."""

    max_segments: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Maximum number of documents in a sequence."""
    too_long: Literal["left", "right", "drop", "raise"] = "left"
    """For a document longer than a sequence: keep its left end, keep its right end, drop it, or stop with an error."""


class BestFitSpec(ApiModel):
    """Every sequence begins with a document and is full: the longest document that fits is added, and the last one is
    cropped.
    """

    buffer: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Number of documents to choose the best fit from."""


class LayoutSpec(OneOf):
    """How documents become sequences: exactly one member."""

    concatenate: ConcatenateSpec | None = None
    """Concatenate and cut."""
    pack: PackSpec | None = None
    """Whole neighbouring documents."""
    best_fit: BestFitSpec | None = None
    """Full sequences that begin with a document."""


class RowsSpec(RuledModel):
    """A range of a source's rows, counted over all its files."""

    start: RowNumber = 0
    """First row, counted from 0."""
    end: RowNumber | None = None
    """Row after the last one. Default: the end of the source."""

    rules: ClassVar = (
        Rule(
            "!has(self.end) || self.start < self.end",
            "rows.start must be below rows.end",
            ".start",
            shows("start", "end"),
        ),
    )


class HeldOutSpec(ApiModel):
    """The held-out part of a source, which is never trained on."""

    fraction: Ratio
    """Share of the source's sequences; 1: the source is used for evaluation only."""


class DataSourceSpec(OneOf):
    """One source of text: a name and exactly one kind."""

    name: SourceName
    """Name of the source. It seeds the source's order: a new name changes this source's order only."""
    stdlib: StdlibSourceSpec | None = None
    """Text of the Python standard library."""
    text: TextSourceSpec | None = None
    """Plain text files."""
    jsonl: JsonlSourceSpec | None = None
    """JSON Lines."""
    csv: CsvSourceSpec | None = None
    """CSV files."""
    tsv: TsvSourceSpec | None = None
    """CSV files with tabs."""
    parquet: ParquetSourceSpec | None = None
    """Parquet files."""
    hugging_face: HuggingFaceSourceSpec | None = None
    """A data set of the Hugging Face hub."""

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """The kinds; other optional members are common to all."""
        return ("stdlib", "text", "jsonl", "csv", "tsv", "parquet", "hugging_face")

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of its files; empty for a source without files of its own."""
        return () if self.files is None else tuple(self.files.paths)

    @property
    def files(self) -> FilesSpec | None:
        """Its files; None: it has none of its own."""
        return self.text or self.jsonl or self.csv or self.tsv or self.parquet

    weight: float | None = optional(ge=0, le=1_000_000_000_000)
    """Share of the training sequences, relative to other sources. Set it for all or none. Default: the source's size.
    """
    format: FormatSpec = Field(default_factory=lambda: FormatSpec(text=TextFormatSpec()))
    """Format of the rows: exactly one member."""
    rows: RowsSpec = Field(default_factory=RowsSpec)
    """Use only a range of the rows."""
    on_bad_file: OnBad = "fail"
    """What to do with a file that cannot be read."""
    on_bad_row: OnBad = "fail"
    """What to do with a row that cannot be read."""
    max_skipped: Ratio = 0.1
    """Largest share of the files, and of the rows, that may be skipped."""
    layout: LayoutSpec = Field(default_factory=lambda: LayoutSpec(concatenate=ConcatenateSpec()))
    """How documents become sequences: exactly one member."""
    validation: HeldOutSpec | None = None
    """The held-out part. Default: `data.validation`."""
