"""Numbers with their nouns and units."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, such as ``1 slice`` or ``12,000 steps``.

    Args:
        number: The count.
        noun: The noun in the singular.
        plural: The noun in the plural. Default: the singular with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def size(count: int) -> str:
    """Bytes with a unit, such as ``12.3 GB``."""
    for unit, factor in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
