"""The value of a field that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BadValue:
    """Stands for the value in its row.

    It is an error only if the field is read, so a field that no format reads ends no build.
    """

    problem: str
    """What is wrong, for the sentence "row 3 of FILE ... in the field 'text'": ``is not UTF-8``."""
