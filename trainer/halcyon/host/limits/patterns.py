"""Regular expressions of strangers. Some need exponential time for a short text, so they match in a process with a
budget.

The process imports this module, so it imports only the standard library.
"""

import re
import warnings


class Compiled:
    """A regular expression in the process with the budget.

    Args:
        pattern: The expression.

    Raises:
        re.error, OverflowError, RecursionError: It is not valid.
    """

    def __init__(self, pattern: str) -> None:
        with warnings.catch_warnings(action="ignore"):
            self._pattern = re.compile(pattern)

    def groups(self) -> list[str]:
        """Names of its groups."""
        return list(self._pattern.groupindex)

    def match(self, text: str, whole: bool) -> dict[str, str | None] | None:
        """The named groups of its match at the beginning of a text, or with the whole text; None: it does not match."""
        match = self._pattern.fullmatch(text) if whole else self._pattern.match(text)
        return None if match is None else match.groupdict()
