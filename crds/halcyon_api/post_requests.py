"""Requests to a running process: the bodies of ``POST /save`` and ``POST /profile``, and their answers.

A request for a checkpoint has an id. A process acts only once on the same id, so a client may repeat a request. A
checkpoint of the step at which the request came, or of a later step, serves it, because it holds everything trained
until then.
"""

import hashlib
from typing import Annotated

from pydantic import Field, NonNegativeInt, StringConstraints

from halcyon_api.base import ApiModel, StatusModel

PROFILE_PATH = "/profile"
MAX_PROFILED_STEPS = 100
"""A trace of more steps would be too large to open."""
USUAL_PROFILED_STEPS = 3

ProfiledSteps = Annotated[int, Field(ge=1, le=MAX_PROFILED_STEPS)]


class ProfileRequest(ApiModel):
    """The body of ``POST /profile``.

    Only a process of the run that it names accepts it. The process profiles its next steps, alone.
    """

    run: Annotated[str, StringConstraints(max_length=63)]
    """Name of the run."""
    steps: ProfiledSteps = USUAL_PROFILED_STEPS
    """Number of steps."""


class ProfileRequestTaken(ApiModel):
    """The answer to an accepted request."""

    step: NonNegativeInt
    """Steps done when the request came. The profile begins with one of the next steps."""
    steps: ProfiledSteps
    """Number of steps of the profile."""


SAVE_PATH = "/save"
MAX_SAVE_REQUEST_BYTES = 4096
MAX_REMEMBERED_REQUESTS = 16
"""Number of last requests that a process remembers."""

RequestId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]


class SaveRequest(ApiModel):
    """The body of ``POST /save``. Only a process of the run, attempt and restart that it names accepts it."""

    id: RequestId
    """A process acts only once on the same id."""
    run: Annotated[str, StringConstraints(max_length=63)]
    """Name of the run."""
    attempt: NonNegativeInt
    """Attempt of the process group."""
    restart: NonNegativeInt
    """JobSet restart of the process group."""


class SaveRequestTaken(StatusModel):
    """A request that a process has recorded."""

    id: RequestId
    """Id of the request."""
    step: NonNegativeInt
    """Steps done when the request came. A checkpoint of this step or a later one serves it."""


def request_id(kind: str, text: str) -> str:
    """An id made from any text."""
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
