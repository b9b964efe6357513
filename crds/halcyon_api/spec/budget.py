"""``spec.budget``: what the run may use. When it is used up, the run saves, releases its hardware and waits."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from halcyon_api.base import Rule, RuledModel, optional

_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2})"
_Amount = Annotated[float, Field(gt=0, le=1e12)]


class BudgetSpec(RuledModel):
    """What the run may use: it saves and is suspended when the first of these is used up. A raised budget goes on."""

    chip_hours: _Amount | None = optional("Hours of chips, over all attempts, while the run holds hardware.")
    money: _Amount | None = optional("The same times `accelerator.pricePerChipHour`.")
    until: Annotated[str, StringConstraints(max_length=40)] | None = optional(
        "Time at which the run ends, such as `2026-12-31T00:00:00Z`."
    )

    rules: ClassVar = (
        Rule(
            "has(self.chipHours) || has(self.money) || has(self.until)",
            lambda self: any(value is not None for value in (self.chip_hours, self.money, self.until)),
            "set chipHours, money or until, or leave budget out",
        ),
        Rule(
            f"!has(self.until) || self.until.matches('^{_TIME}$')",
            lambda self: self.until is None or _is_time(self.until),
            "until must be a time with its zone, such as 2026-12-31T00:00:00Z",
            ".until",
        ),
    )


def _is_time(text: str) -> bool:
    if re.fullmatch(_TIME, text) is None:
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
