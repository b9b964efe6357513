"""``ROOT/evaluation.json``: what a run of task ``evaluate`` has found, kept source by source, so that a restart does none of it again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from halcyon_api.base import RunName, Timestamp
from halcyon_api.checkpoint_documents import CommittedStep, Document, Owner, Sha256
from halcyon_api.spec.sources import SourceName

EVALUATION_KEY = "evaluation.json"

Number = Annotated[str, StringConstraints(pattern=r"^(-?[0-9].*|-?inf|nan)$", max_length=32)]
"""A float as Python writes it: read back it is the same to the bit, and it may be no number."""


class SourceSums(Document):
    """The held-out part of one source, evaluated."""

    source: SourceName
    nats: Number = Field(description="Weighted sum of losses.")
    weight: Number = Field(description="Sum of weights.")
    size_bytes: int = Field(ge=0, description="Bytes of text that the predicted tokens stand for.")
    sequences: int = Field(ge=0)
    seconds: float = Field(ge=0, description="How long it took.")
    loss: float | None = Field(default=None, description="Nats per token, for readers.")
    bits_per_byte: float | None = Field(default=None, description="Bits per byte, for readers.")


class EvaluationDocument(Document):
    """One checkpoint, evaluated on the sources so far."""

    format_version: Literal[1] = 1
    owner: Owner = Field(description="The run that evaluates.")
    run: RunName = Field(description="The run whose checkpoint it is.")
    checkpoint: CommittedStep = Field(description="The checkpoint, as that run's HEAD listed it.")
    decides: Sha256 = Field(description="Hash of all else that decides the numbers.")
    sources: tuple[SourceSums, ...] = Field(default=(), description="Those that are whole.")
    finished: bool = Field(default=False, description="Whether they are all.")
    loss: float | None = Field(default=None, description="Nats per token over all sources so far, for readers.")
    bits_per_byte: float | None = Field(default=None, description="Bits per byte over all sources so far, for readers.")
    time: Timestamp = Field(description="When it was written.")
