"""``spec.objective``: what a training makes less of. Each kind brings its own numbers, and later its own kind of batch."""

from __future__ import annotations

from pydantic import Field

from halcyon_api.base import ApiModel, OneOf


class NextTokenSpec(ApiModel):
    """Cross entropy of the next token, in nats, over all tokens that count."""


class ObjectiveSpec(OneOf):
    """The objective: exactly one member."""

    next_token: NextTokenSpec | None = Field(default=None, description="Cross entropy of the next token.")


def next_token() -> ObjectiveSpec:
    """The objective of a run that names none."""
    return ObjectiveSpec(next_token=NextTokenSpec())
