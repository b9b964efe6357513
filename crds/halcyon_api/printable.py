"""Makes a text of a stranger printable: a key of a document, a file's name, a pod's message, the text of a model.

A terminal obeys control characters, and marks of direction let a reader see another text than there is.
"""

from html import escape

_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
VISIBLE: dict[int, int] = (
    {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
    | {0x7F: 0x2421}
    | dict.fromkeys((*range(0x80, 0xA0), *_DIRECTIONS, *range(0xD800, 0xE000)), 0xFFFD)
)
"""Control characters by their visible symbols; U+FFFD for those without one, for marks of direction and for halves of
surrogate pairs. Line ends and tabs stay.
"""


def printable(text: str) -> str:
    """A text that changes neither the terminal nor the direction of other text."""
    return text.translate(VISIBLE)


def one_line(text: str) -> str:
    """A name in a sentence: one line, with a question mark for each character that cannot be printed."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "?" for sign in text)


def markup(text: str) -> str:
    """A printable text for HTML, and for XML, which cannot hold control characters."""
    return escape(printable(text))


def harmless(text: str) -> str:
    """A text of a model without characters that control a terminal or turn the direction of text: U+FFFD replaces
    them.
    """
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)
