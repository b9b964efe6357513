"""Requests for a profile of a running process: the body of ``POST /profile``, and its answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from halcyon_api.base import ApiModel

PROFILE_PATH = "/profile"
MAX_PROFILED_STEPS = 100
"""A trace of more steps would be too large to open."""
USUAL_PROFILED_STEPS = 3

ProfiledSteps = Annotated[int, Field(ge=1, le=MAX_PROFILED_STEPS)]


class ProfileRequest(ApiModel):
    """The body of ``POST /profile``.

    Only a process of the run that it names accepts it. The process profiles its next steps, alone.
    """

    run: Annotated[str, StringConstraints(max_length=63)] = Field(description="Name of the run.")
    steps: ProfiledSteps = Field(default=USUAL_PROFILED_STEPS, description="Number of steps.")


class ProfileRequestTaken(ApiModel):
    """The answer to an accepted request."""

    step: int = Field(
        ge=0, description="Steps done when the request came. The profile begins with one of the next steps."
    )
    steps: ProfiledSteps = Field(description="Number of steps of the profile.")
