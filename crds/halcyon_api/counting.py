"""Numbers with their nouns."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, such as ``1 slice`` or ``12,000 steps``.

    Args:
        number: The count.
        noun: The noun in the singular.
        plural: The noun in the plural. Default: the singular with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
