"""The files of the chat page: libraries as they were published, nothing from elsewhere, small, and readable colours."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from tests.page.server import PAGE

ASSETS = PAGE / "assets"
VENDORED = json.loads((PAGE / "vendored.json").read_text())["packages"]
OWN = sorted(
    path
    for path in ASSETS.glob("*.js")
    if path.name not in {package["file"].rpartition("/")[2] for package in VENDORED}
)
LARGEST_BYTES = 560_000
INDEX = (PAGE / "index.html").read_text()


class _Elements(HTMLParser):
    """Collects the elements of a document with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


ELEMENTS = _Elements(INDEX).found


@pytest.mark.parametrize("package", VENDORED, ids=lambda package: package["name"])
def test_a_vendored_library_is_the_published_file_with_its_licence(package: dict[str, str]) -> None:
    content = (PAGE / package["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == package["sha256"]
    assert package["version"] in (PAGE / package["licenseFile"]).read_text() + content[:300].decode()
    assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", package["integrity"])


def test_the_page_is_small_and_has_no_further_files() -> None:
    files = [path for path in ASSETS.iterdir() if path.is_file()]  # pdf.js may be in a folder
    assert {path.suffix for path in files} == {".js", ".css", ".svg"}
    assert sum(path.stat().st_size for path in (PAGE / "index.html", *files)) < LARGEST_BYTES


def test_the_page_has_no_inline_code_and_names_only_its_own_files() -> None:
    inline = [
        attrs
        for tag, attrs in ELEMENTS
        if tag == "style" or "style" in attrs or (tag == "script" and "src" not in attrs)
    ]
    handlers = [attrs for _, attrs in ELEMENTS if any(name.startswith("on") for name in attrs)]
    assert (inline, handlers) == ([], [])
    names = [attrs.get("src") or attrs.get("href") or "" for tag, attrs in ELEMENTS if tag in ("script", "link")]
    assert names
    assert all((PAGE / name).is_file() for name in names)
    assert not re.findall(r"https?://|url\(|@import", INDEX + (ASSETS / "page.css").read_text())


def test_the_policy_of_the_page_permits_nothing_inline_and_nothing_foreign() -> None:
    policy = next(attrs["content"] for tag, attrs in ELEMENTS if tag == "meta" and "http-equiv" in attrs)
    assert policy is not None
    directives = {name: values for name, *values in (part.split() for part in policy.split(";"))}
    assert directives["default-src"] == ["'none'"]
    assert directives.pop("img-src") == ["'self'", "data:"], "images that a user attaches"
    assert {value for values in directives.values() for value in values} == {
        "'none'",
        "'self'",
        "'script'",
        "dompurify",
    }


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_a_module_makes_no_elements_or_code_from_text(path: object) -> None:
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(), flags=re.DOTALL)  # type: ignore[attr-defined]
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|Function\(|setAttribute\(.on", text
    )


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_every_import_and_every_element_of_a_module_exists(path: object) -> None:
    text = path.read_text()  # type: ignore[attr-defined]
    for names, module in re.findall(r'^import (?:\{([^}]*)\} from )?"\./([^"]+)";', text, re.MULTILINE):
        other = (ASSETS / module).read_text()
        for name in filter(None, re.split(r"[,\s]+", names)):
            assert re.search(rf"^export (?:async )?(?:function\*?|class|const) {name}\b", other, re.MULTILINE), (
                module,
                name,
            )
    known = {attrs["id"] for _, attrs in ELEMENTS if "id" in attrs}
    assert set(re.findall(r'\bat\("([^"]+)"\)', text)) <= known


def test_texts_have_the_contrast_of_wcag_aa_in_both_colour_schemes() -> None:
    """Relative luminance and contrast ratio as WCAG 2.2 defines them: 4.5 for text, 3 for the borders of controls."""
    pairs = dict(re.findall(r"--([a-z-]+): (light-dark\([^)]*\));", (ASSETS / "page.css").read_text()))
    colours = {name: re.findall(r"#([0-9a-f]{6})", pair) for name, pair in pairs.items()}
    texts = [(text, ground) for ground in ("ground", "raised") for text in ("text", "quiet", "accent", "error")]
    texts += [("text", "faint"), ("accent", "faint"), ("on-accent", "accent")]
    texts += [(f"code-{part}", "raised") for part in ("word", "text", "name", "kind")]
    for scheme in (0, 1):
        for text, ground in texts:
            assert _contrast(colours[text][scheme], colours[ground][scheme]) >= 4.5, (scheme, text, ground)
        assert _contrast(colours["line"][scheme], colours["ground"][scheme]) >= 3


def _contrast(first: str, second: str) -> float:
    darker, lighter = sorted(_luminance(colour) for colour in (first, second))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
