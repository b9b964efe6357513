"""``ROOT/evaluation.json``: the results of a run of task ``evaluate``, written after each source, so that a restart
repeats no source.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from halcyon_api.base import RunName, Timestamp
from halcyon_api.checkpoint_documents import CommittedStep, Document, Owner, Sha256
from halcyon_api.spec.sources import SourceName

EVALUATION_KEY = "evaluation.json"

Number = Annotated[str, StringConstraints(pattern=r"^(-?[0-9].*|-?inf|nan)$", max_length=32)]
"""A float as Python's ``repr``: reading it gives the same bits. It may be inf or nan."""


class SourceSums(Document):
    """Result of the evaluation on the held-out part of one source."""

    source: SourceName
    nats: Number = Field(description="Weighted sum of losses.")
    weight: Number = Field(description="Sum of weights.")
    size_bytes: int = Field(ge=0, description="Bytes of text of the predicted tokens.")
    sequences: int = Field(ge=0)
    seconds: float = Field(ge=0, description="Duration of the evaluation.")
    loss: float | None = Field(default=None, description="Nats per token, for readers.")
    bits_per_byte: float | None = Field(default=None, description="Bits per byte, for readers.")


class EvaluationDocument(Document):
    """Results of one checkpoint on the sources evaluated so far."""

    format_version: Literal[1] = 1
    owner: Owner = Field(description="The run that evaluates.")
    run: RunName = Field(description="The run of the checkpoint.")
    root: str | None = Field(default=None, description="The root of that run; None: not recorded.")
    checkpoint: CommittedStep = Field(description="The checkpoint, as that run's HEAD listed it.")
    decides: Sha256 = Field(description="Hash of everything else that determines the results.")
    sources: tuple[SourceSums, ...] = Field(default=(), description="Sources whose evaluation is complete.")
    finished: bool = Field(default=False, description="Whether all sources are complete.")
    loss: float | None = Field(default=None, description="Nats per token over all sources so far, for readers.")
    bits_per_byte: float | None = Field(default=None, description="Bits per byte over all sources so far, for readers.")
    time: Timestamp = Field(description="When the document was written.")
