"""Writes texts of a model to standard output. A terminal obeys control characters, so it gets none but tabs and line
ends.

A model writes anything that was in its training data. An escape sequence can clear the screen, put words into the
clipboard, or let the terminal answer as if the user typed; marks of direction can show a text in another order. A file
or a pipe gets the text as it is.
"""

from __future__ import annotations

import sys

_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_OTHERS = dict.fromkeys((*_DIRECTIONS, *range(0xD800, 0xE000)), 0xFFFD)


def visible(text: str) -> str:
    """The text with a visible symbol in place of each control character, mark of direction and half of a surrogate
    pair.
    """
    from halcyon.commands.views.examples import SAFE  # commands that print no text start faster without it

    return text.translate(SAFE | _OTHERS)


def write_text(text: str) -> None:
    """Write a text of a model; without control characters if standard output is a terminal."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
