"""The number that an answer ends with, as GSM8K marks it: ``#### 1,234``. Pure."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_MARKED = re.compile(r"####\s*\$?(-?[0-9][0-9,]*(?:\.[0-9]+)?)")


def final_number(text: str) -> Decimal | None:
    """The first marked number of a text, without the commas of thousands; None: it has none."""
    found = _MARKED.search(text)
    if found is None:
        return None
    try:
        return Decimal(found[1].replace(",", ""))
    except InvalidOperation:
        return None


def has_number_of(reference: str, text: str) -> bool:
    """Whether a text has the same marked number as a reference."""
    wanted = final_number(reference)
    return wanted is not None and final_number(text) == wanted
