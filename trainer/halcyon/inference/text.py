"""From tokens to text that is safe to show: whole characters only, and nothing of a string that ends the text."""

from collections.abc import Sequence

import numpy as np

from halcyon.tokenizer import Tokenizer

_CONTEXT = 6
"""Tokens of the prompt before the text: some tokenizers drop the space before the first word of what they decode."""
_TAIL = 3
"""Bytes of the longest incomplete character of UTF-8."""
_INCOMPLETE = "\ufffd"


class TextStream:
    """The text of tokens that come one by one.

    A token may end inside of a character. Its text then waits for the next tokens.

    Args:
        tokenizer: Decodes the tokens.
        context: Tokens before the text.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(context[-_CONTEXT:])
        self._first, self._shown = 0, len(self._ids)

    def push(self, token: int) -> str:
        """The text that `token` completes; it may be empty."""
        self._ids.append(token)
        text = self._text(len(self._ids))
        if not text.endswith(_INCOMPLETE):
            return self._emit(text, self._shown, len(self._ids))
        waiting = len(self._ids) - self._shown
        if waiting <= _TAIL:
            return ""
        # Bytes that are no UTF-8: show all but a tail that later bytes may complete.
        for tail in range(_TAIL, 0, -1):
            end = len(self._ids) - tail
            part = self._text(end)
            if part + self._tokenizer.decode(np.array(self._ids[end:], np.int32)) == text:
                return self._emit(part, end, end)
        return self._emit(text, self._shown, len(self._ids))

    def finish(self) -> str:
        """The text that waits; an incomplete character is U+FFFD."""
        return self._emit(self._text(len(self._ids)), self._shown, len(self._ids))

    def _text(self, end: int) -> str:
        return self._tokenizer.decode(np.array(self._ids[self._first : end], np.int32))

    def _emit(self, text: str, first: int, shown: int) -> str:
        """The part of `text` that was not shown.

        Then only tokens from `first` on are needed, for the context of the next ones.
        """
        before = self._text(self._shown)
        self._ids = self._ids[first:]
        self._first, self._shown = 0, shown - first
        return text[len(before) :]


class StopStrings:
    """Ends a text before the first of some strings.

    A possible beginning of one waits, because the next tokens may complete it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._beginnings = {stop[:length] for stop in self._stops for length in range(1, len(stop))}
        self._longest = max(map(len, self._beginnings), default=0)
        self._waiting = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that may be shown, and whether a string ended it."""
        whole = self._waiting + text
        places = [at for stop in self._stops if (at := whole.find(stop)) >= 0]
        if places:
            self._waiting = ""
            return whole[: min(places)], True
        kept = next((n for n in range(min(self._longest, len(whole)), 0, -1) if whole[-n:] in self._beginnings), 0)
        self._waiting = whole[len(whole) - kept :]
        return whole[: len(whole) - kept], False

    def finish(self) -> str:
        """The text that waits."""
        waiting, self._waiting = self._waiting, ""
        return waiting
