"""Blocks of pages that programs write: the lines between `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""

from __future__ import annotations

from pathlib import Path


def block(page: str, name: str) -> str:
    """The text of a block.

    Raises:
        LookupError: The page has no such block.
    """
    return _parts(page, name)[1]


def with_block(page: str, name: str, text: str) -> str:
    """The page with another text in a block.

    Raises:
        LookupError: The page has no such block.
    """
    before, _, after = _parts(page, name)
    return f"{before}{text.strip()}\n{after}"


def write_block(path: Path, name: str, text: str) -> None:
    """Write another text into a block of a page.

    Raises:
        LookupError: The page has no such block.
    """
    path.write_text(with_block(path.read_text(encoding="utf-8"), name, text), encoding="utf-8")


def _parts(page: str, name: str) -> tuple[str, str, str]:
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, begun, rest = page.partition(begin)
    text, ended, after = rest.partition(end)
    if not (begun and ended):
        raise LookupError(f"the page has no lines {begin.strip()} and {end}")
    return before + begun, text.strip(), ended + after
