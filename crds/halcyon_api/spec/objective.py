"""``spec.objective``: what the training minimizes. Each kind has its own metrics; a later kind may have its own form of batch."""

from __future__ import annotations

from pydantic import Field

from halcyon_api.base import ApiModel, OneOf


class NextTokenSpec(ApiModel):
    """Cross entropy of the next token, in nats, over all tokens with a loss weight."""


class ObjectiveSpec(OneOf):
    """The objective: exactly one member."""

    next_token: NextTokenSpec | None = Field(default=None, description="Cross entropy of the next token.")


def next_token() -> ObjectiveSpec:
    """The objective of a run whose document has none."""
    return ObjectiveSpec(next_token=NextTokenSpec())
