"""Numbers with their nouns."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, such as ``1 slice`` or ``12,000 steps``.

    Args:
        number: How many.
        noun: What one of them is called.
        plural: What several are called. Default: the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
