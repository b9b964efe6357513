"""Asking a trainer for a checkpoint now: the body of ``POST /save``, its answer, and what the progress report says of it.

A request has an id, and the same id asks only once in the life of a process, so whoever asks may do so as often as he likes. It is served
by any checkpoint of its step or of a later one: that holds everything that was trained when it came.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from halcyon_api.base import ApiModel

SAVE_PATH = "/save"
MAX_SAVE_REQUEST_BYTES = 4096
MAX_REMEMBERED_REQUESTS = 16
"""How many requests a process remembers."""

RequestId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]


class SaveRequest(ApiModel):
    """The body of ``POST /save``. It is refused by any process but one of the run, attempt and restart that it names."""

    id: RequestId = Field(description="The same id asks only once.")
    run: Annotated[str, StringConstraints(max_length=63)] = Field(description="Name of the run.")
    attempt: int = Field(ge=0, description="Attempt that is meant.")
    restart: int = Field(ge=0, description="JobSet restart that is meant.")


class SaveRequestTaken(ApiModel):
    """A request that a process has taken note of."""

    model_config = ConfigDict(extra="ignore")

    id: RequestId = Field(description="Id of the request.")
    step: int = Field(ge=0, description="Steps done when it came; a checkpoint of this step or a later one serves it.")


def request_id(kind: str, text: str) -> str:
    """An id made from any text."""
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
