"""``spec.budget``: what the run may use. When it is used up, the run saves, releases its hardware and waits."""

import re
from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from halcyon_api.base import Rule, RuledModel

_TIME = r"2(0[2-9]|1[0-9])[0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](Z|[+-][01][0-9]:[0-5][0-9])"
Time = Annotated[str, StringConstraints(max_length=40)]
"""A time, for which a section has the `time_rule`."""
_Amount = Annotated[float, Field(ge=1e-6, le=1e12)]


def time_rule(field: str) -> Rule:
    """The rule that a field is a time, if it is set."""
    return Rule(
        f"!has(self.{field}) || self.{field}.matches('^{_TIME}$')",
        f"{field} must be a time of 2020 to 2199 with its zone, such as 2026-12-31T00:00:00Z",
        f".{field}",
        check=lambda self: getattr(self, field) is None or _is_time(getattr(self, field)),
    )


def _is_time(text: str) -> bool:
    if re.fullmatch(_TIME, text) is None:
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


class BudgetSpec(RuledModel):
    """What the run may use: it saves and is suspended when the first of these is used up. A raised budget goes on."""

    chip_hours: _Amount | None = None
    """Chips times the hours that pods hold them, over all attempts."""
    money: _Amount | None = None
    """The same times `accelerator.pricePerChipHour`."""
    until: Time | None = None
    """When the run ends: `2026-12-31T00:00:00Z`."""

    rules: ClassVar = (
        Rule(
            "has(self.chipHours) || has(self.money) || has(self.until)",
            "set chipHours, money or until, or leave budget out",
        ),
        time_rule("until"),
    )
