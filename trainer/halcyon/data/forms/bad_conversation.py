"""The error about a row that holds no valid conversation."""

from __future__ import annotations


class BadConversation(Exception):
    """A row is not a valid conversation. The error's message gives the reason.

    Attributes:
        fix: The fix.
        part: The part of the row's form that is wrong, such as ``rejected``; None: it is not known, or all of it.
    """

    def __init__(self, what: str, fix: str = "fix the row", part: str | None = None) -> None:
        super().__init__(what)
        self.fix = fix
        self.part = part
