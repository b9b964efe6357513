"""``status.plan``: what the step of a run needs and takes on its hardware, computed before any is taken.

A planning pod reports it as its termination message. The operator adds the hash of the part of the spec that decides
it.
"""

from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError

from halcyon_api.base import StatusModel, optional
from halcyon_api.status.progress import TERMINATION_MESSAGE_LIMIT

_Number = Annotated[float, Field(ge=0, le=1e18)]
_Text = Annotated[str, StringConstraints(max_length=1024)]


class PlanStatus(StatusModel):
    """What a step needs and takes on its hardware, computed before any is taken."""

    hash: Annotated[str, StringConstraints(max_length=64)] = ""
    """Hash of the part of the spec that decides the plan."""
    fits: bool | None = None
    """Whether a step fits into the memory of a device; absent: not known."""
    memory: str | None = optional(max_length=64)
    """Memory of a device that a step takes, and that there is."""
    step_seconds: _Number | None = None
    """Seconds of a step."""
    tokens_per_second: _Number | None = None
    """Tokens a second."""
    mfu: _Number | None = None
    """Model FLOPs utilisation of that speed."""
    bound: str | None = optional(max_length=32)
    """What takes most of a step."""
    chip_hours: _Number | None = None
    """Chip-hours of the whole run."""
    cost: _Number | None = None
    """The same times `accelerator.pricePerChipHour`."""
    message: _Text = ""
    """One sentence about the plan, or why there is none."""

    @property
    def failed(self) -> bool:
        """Whether there is no plan: neither the memory of a step is known nor its time."""
        return self.fits is None and self.step_seconds is None


def parse_plan(message: object) -> PlanStatus | None:
    """The report of a planning pod. None: it is none. Never raises."""
    if not isinstance(message, str) or len(message) > TERMINATION_MESSAGE_LIMIT:
        return None
    try:
        return PlanStatus.model_validate_json(message, by_alias=True, by_name=False)
    except ValidationError:
        return None
