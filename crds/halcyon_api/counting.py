"""Numbers with their nouns and units."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, such as ``1 slice`` or ``12,000 steps``.

    Args:
        number: The count.
        noun: The noun in the singular.
        plural: The noun in the plural. Default: the singular with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def percent(ratio: float, decimals: int = 0) -> str:
    """A share such as ``12.3%``; a bound for a share that is too small or too large to be read as one."""
    least = 10.0 ** -(2 + decimals)
    if 0 < ratio < least:
        return f"under {least:.{decimals}%}"
    return f"{ratio:z.{decimals}%}" if ratio <= 10 else "over 1,000%"


def amount(value: float, decimals: int) -> str:
    """A number with some decimals, and with significant digits where it is too small or too large for them."""
    fits = value == 0 or 10.0**-decimals <= abs(value) < 1e12
    return f"{value:z,.{decimals}f}" if fits else f"{value:.3g}"


def size(count: int) -> str:
    """Bytes with a unit, such as ``12.3 GB``."""
    for unit, factor in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
