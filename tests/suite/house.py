"""``make house``: how heavy the repository is, one line a figure, each with its limit and its aim.

A figure above its limit fails. A limit only falls: when a figure is more than 1 % below its limit, lower the limit in
`ROWS` to the figure, rounded up as the others are.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import grimp
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("trainer", "operator", "crds", "cli")
"""The folders of the wheel's packages."""
_NO_WEIGHT = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)
_GENERATED_BLOCK = re.compile(r"<!-- ([\w -]+): begin[^>]*-->.*?<!-- \1: end -->", re.DOTALL)
_GENERATED_PAGE = re.compile(r"<!-- (generated|made|written) .*do not edit", re.IGNORECASE)


class Row(NamedTuple):
    """One figure."""

    what: str
    measure: Callable[[], float]
    limit: float
    aim: float


@cache
def _files(pattern: str) -> tuple[Path, ...]:
    """Files of the repository, also those that are not committed yet."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern]
    names = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    return tuple(path for name in names if (path := REPOSITORY / name).is_file())


def _of_packages() -> list[Path]:
    return [path for path in _files("*.py") if path.relative_to(REPOSITORY).parts[0] in PACKAGES]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def package_tokens() -> int:
    """Python tokens without comments and docstrings, so that a formatter or a line's length changes nothing."""
    return sum(_tokens(path) for path in _of_packages())


def _tokens(path: Path) -> int:
    docstrings: set[int] = set()
    for node in ast.walk(_tree(path)):
        body = getattr(node, "body", None)
        for one in body if isinstance(body, list) else ():
            if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) and isinstance(one.value.value, str):
                docstrings.update(range(one.lineno, (one.end_lineno or one.lineno) + 1))
    count = depth = 0
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        # Since Python 3.12 the parts of an f-string are tokens of their own; here it is one, as before.
        name = tokenize.tok_name[token.type]
        depth -= name == "FSTRING_END"
        text = token.type == tokenize.STRING and token.start[0] in docstrings
        count += not depth and token.type not in _NO_WEIGHT and not text and name != "FSTRING_END"
        depth += name == "FSTRING_START"
    return count


def import_share() -> float:
    """Lines of import statements, in % of all lines of the packages."""
    lines = sum(_lines(path) for path in _of_packages())
    imports = sum(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for path in _of_packages()
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
    )
    return 100 * imports / lines


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def test_lines() -> int:
    """Lines of Python below tests."""
    return sum(_lines(path) for path in _files("tests/*.py"))


def words_by_hand() -> int:
    """Words of all Markdown without generated pages and generated blocks."""
    return sum(_words(path.read_text(encoding="utf-8")) for path in _files("*.md"))


def _words(text: str) -> int:
    return 0 if _GENERATED_PAGE.search(text[:400]) else len(_GENERATED_BLOCK.sub("", text).split())


@cache
def _crd() -> dict[str, Any]:
    return yaml.load((REPOSITORY / "crds" / "halcyon.dev_trainingruns.yaml").read_text(), yaml.CSafeLoader)


def crd_bytes() -> int:
    """Size of the CRD of TrainingRun as the JSON that the API server stores."""
    return len(json.dumps(_crd(), separators=(",", ":")))


def undescribed_fields() -> int:
    """Fields of `spec` and `status` about which `kubectl explain` says nothing."""
    (version,) = _crd()["spec"]["versions"]
    parts = version["schema"]["openAPIV3Schema"]["properties"]
    return sum("description" not in field for part in ("spec", "status") for field in _fields(parts[part]))


def _fields(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for field in node.get("properties", {}).values():
        yield field
        yield from _fields(field)
    for part in ("items", "additionalProperties"):
        if isinstance(node.get(part), dict):
            yield from _fields(node[part])


@cache
def _imports() -> dict[str, set[str]]:
    """The modules that each module imports, also those that only types need."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    graph = grimp.build_graph(*project["tool"]["importlinter"]["root_packages"], cache_dir=None)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def import_circles() -> int:
    """Groups of modules that import each other."""
    left, found = _imports(), 0
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as circle:
            found += 1
            first = circle.args[1][0]
            group = _reached(left, first) & _reached({b: {a for a in left if b in left[a]} for b in left}, first)
            left = {module: imported - group for module, imported in left.items() if module not in group}
        else:
            return found


def _reached(imports: dict[str, set[str]], start: str) -> set[str]:
    found, ahead = {start}, [start]
    while ahead:
        new = imports.get(ahead.pop(), set()) - found
        found |= new
        ahead += new
    return found


def arrows() -> int:
    """Pairs of rooms of which one imports the other. A room is a folder of the repository; the trainer has one for
    each of its packages.
    """
    pairs = {(_room(module), _room(other)) for module, imported in _imports().items() for other in imported}
    return sum(room != other for room, other in pairs)


@cache
def _room(module: str) -> str:
    package, _, rest = module.partition(".")
    if package == "halcyon":
        return f"trainer/{rest.partition('.')[0]}"
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).relative_to(REPOSITORY).parts[0]


ROWS = (
    Row("package tokens", package_tokens, 722_200, 600_000),
    Row("lines of tests", test_lines, 123_200, 98_000),
    Row("imports, % of the packages' lines", import_share, 7.2, 6.5),
    Row("words by hand", words_by_hand, 59_600, 52_000),
    Row("bytes of the CRD as JSON", crd_bytes, 190_000, 177_000),
    Row("fields without a description", undescribed_fields, 0, 0),
    Row("circles of imports", import_circles, 0, 0),
    Row("arrows between rooms", arrows, 101, 101),
)


def main() -> int:
    """Print all figures; 1 if one is above its limit."""
    heavy = 0
    for what, measure, limit, aim in ROWS:
        figure = measure()
        shown = f"{figure:.2f}" if isinstance(figure, float) else f"{figure:,}"
        line = f"{what:34} {shown:>9}   limit {limit:9,}   aim {aim:9,}"
        if figure > limit:
            heavy += 1
            line += "   ABOVE: make it lighter, here or elsewhere"
        elif figure < 0.99 * limit:
            line += "   below: lower the limit in tests/suite/house.py"
        print(line)
    return 1 if heavy else 0


if __name__ == "__main__":
    sys.exit(main())
