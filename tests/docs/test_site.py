"""Each link of the documentation leads somewhere, and the site has each page once."""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


def _program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SITE = _program("make_site")
PAGES: list[PurePosixPath] = SITE.pages()


def named(entries: list[Any] | dict[str, Any] | str) -> Iterator[str]:
    if isinstance(entries, str):
        yield entries
    for entry in entries.values() if isinstance(entries, dict) else entries if isinstance(entries, list) else ():
        yield from named(entry)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_link_leads_somewhere(page: PurePosixPath) -> None:
    for link in SITE.links(page):
        assert (REPOSITORY / link.target).exists(), f"{page} links to {link.target}"
        if link.anchor and link.target.suffix == ".md":
            assert link.anchor in SITE.anchors(link.target), f"{page} links to {link.target}#{link.anchor}"


def test_the_column_of_the_site_has_each_page_once() -> None:
    nav = tomllib.loads((REPOSITORY / "docs" / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    pages = [
        "index.md" if page.name == "README.md" and page.parent == PurePosixPath() else str(page).removeprefix("docs/")
        for page in PAGES
    ]
    assert sorted(named(nav)) == sorted(pages)


def test_links_out_of_the_pages_lead_to_the_repository(tmp_path: Path) -> None:
    SITE.stage(tmp_path / "pages", "https://example.com/halcyon")
    first = (tmp_path / "pages" / "index.md").read_text(encoding="utf-8")
    assert "](guides/README.md)" in first
    assert "](CONTRIBUTING.md)" in first
    guide = (tmp_path / "pages" / "guides" / "tasks.md").read_text(encoding="utf-8")
    assert "](https://example.com/halcyon/blob/main/examples/tasks.yaml)" in guide
    assert "](../../" not in guide


def test_the_page_of_what_fits_is_generated() -> None:
    fits = _program("make_fits")
    assert fits.PAGE.read_text(encoding="utf-8") == fits.page(), "run: make generate"


def test_the_page_of_the_python_interface_is_generated() -> None:
    halcyon = pytest.importorskip("halcyon")
    pytest.importorskip("jax")
    api = _program("make_api")
    assert api.PAGE.read_text(encoding="utf-8") == api.page(halcyon), "run: make generate"


@pytest.mark.parametrize("name", ["make_commands", "make_levanter"])
def test_the_page_is_generated(name: str) -> None:
    pytest.importorskip("jax")
    program = _program(name)
    assert program.PAGE.read_text(encoding="utf-8") == program.page(), "run: make generate"
