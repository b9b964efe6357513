"""Builds the site of the documentation: `make docs`.

The pages are written for readers of the repository too, so they link to its other files. The site has only the pages:
here those links become addresses of the repository, the README becomes the first page, and Zensical makes the site. It
fails at a link that leads nowhere.

    python docs/make_site.py SITE [--repository URL]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/OWNER/halcyon"
_PICTURES = (".png", ".svg")
_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)


class Link(NamedTuple):
    """A link to a file of the repository."""

    page: PurePosixPath
    """The page, from the root of the repository."""
    target: PurePosixPath
    """The file or folder, from the root of the repository."""
    anchor: str
    """The heading in it; empty: the whole file."""


def pages() -> list[PurePosixPath]:
    """The pages of the site, from the root of the repository."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(
        (ROOT / "docs").rglob("*.md")
    )
    return [PurePosixPath(path.relative_to(ROOT)) for path in found]


def links(page: PurePosixPath) -> Iterator[Link]:
    """The links of a page to files of the repository."""
    found: list[Link] = []

    def keep(link: Link) -> str:
        found.append(link)
        return ""

    _with_links(page, keep)
    yield from found


def anchors(page: PurePosixPath) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = _FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "]", title)).lower().replace(" ", "-")
        for title in _HEADING.findall(text)
    }


def _with_links(page: PurePosixPath, replace: Callable[[Link], str]) -> str:
    """The text of a page with other links to files of the repository. Blocks of code stay as they are."""

    def other(match: re.Match[str]) -> str:
        address = match[1]
        if "://" in address or address.startswith("mailto:"):
            return address
        path, _, anchor = address.partition("#")
        target = PurePosixPath(os.path.normpath(page.parent / path)) if path else page
        return replace(Link(page, target, anchor))

    text = (ROOT / page).read_text(encoding="utf-8")
    return "".join(part if part.startswith("```") else _LINK.sub(other, part) for part in _FENCE.split(text))


def stage(folder: Path, repository: str) -> None:
    """Write the pages with the links of the site.

    Args:
        folder: New folder for the pages.
        repository: Address of the repository.
    """
    shutil.copytree(ROOT / "docs", folder, ignore=shutil.ignore_patterns("*.py", "*.toml", "__pycache__"))
    known = set(pages())
    for page in known:
        here = _place(page)

        def address(link: Link, here: PurePosixPath = here) -> str:
            anchor = f"#{link.anchor}" if link.anchor else ""
            if link.target in known or (link.target.suffix in _PICTURES and link.target.is_relative_to("docs")):
                return f"{os.path.relpath(_place(link.target), here.parent)}{anchor}"
            kind = "tree" if (ROOT / link.target).is_dir() else "blob"
            return f"{repository}/{kind}/main/{link.target}{anchor}"

        (folder / here).write_text(_with_links(page, address), encoding="utf-8")


def _place(path: PurePosixPath) -> PurePosixPath:
    """Where a file of the repository is in the site."""
    if path == PurePosixPath("README.md"):
        return PurePosixPath("index.md")
    return path.relative_to("docs") if path.is_relative_to("docs") else path


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="folder for the site; its content is replaced")
    parser.add_argument("--repository", default=REPOSITORY, help="address of the repository")
    options = parser.parse_args()
    shutil.rmtree(options.site, ignore_errors=True)
    pages_folder = options.site / "pages"
    stage(pages_folder, options.repository)
    shutil.copy(ROOT / "docs" / "zensical.toml", options.site)
    subprocess.run(["zensical", "build", "--strict", "--config-file", str(options.site / "zensical.toml")], check=True)


if __name__ == "__main__":
    main()
