"""Pictures of the documentation: each is on a page, can be drawn by a browser, and is small."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.examples.documents import REPOSITORY

PAGES = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]
PICTURES = sorted(REPOSITORY.glob("docs/**/*.svg"))
SCREENS = sorted(REPOSITORY.glob("docs/**/*.png"))
LARGEST_BYTES = 100_000
LARGEST_SCREEN_BYTES = 150_000


def test_every_picture_is_on_a_page_and_every_linked_picture_exists() -> None:
    shown = {
        (page.parent / name).resolve()
        for page in PAGES
        for name in re.findall(r"\]\(([^()\s:]+\.(?:svg|png))\)", page.read_text())
    }
    assert shown == {*PICTURES, *SCREENS}


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_can_be_drawn_and_is_small(path: Path) -> None:
    assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - from this repository
    assert path.stat().st_size < LARGEST_BYTES


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_makes_no_request(path: Path) -> None:
    """A reader's browser asks no other host for a font, an image or a style."""
    text = path.read_text()
    assert re.findall(r"url\(\s*[\"']?(?!#)[^)]*\)|@import[^;]*|(?:href|src)\s*=\s*[\"'](?!#)[^\"']*", text) == []


@pytest.mark.parametrize("path", SCREENS, ids=lambda path: path.name)
def test_a_picture_of_a_screen_is_a_small_png(path: Path) -> None:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) < LARGEST_SCREEN_BYTES
