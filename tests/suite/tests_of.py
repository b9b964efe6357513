"""Lists the tests of a file of the source, nearest first: `make tests-of FILE=trainer/halcyon/models/stack.py`.

The distance of a test is the number of imports from it to the file: 1 if the test imports the file itself, 2 if it
imports a module that does, and so on. Helpers of tests count as modules.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import grimp

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = ("cli", "crds", "operator", "tools", "trainer")
"""Folders of the source; each has packages."""
SHOWN = 20


def module_of(path: Path, folder: Path) -> str:
    """The module of a file below a folder."""
    parts = path.relative_to(folder).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(text: str) -> Iterator[str]:
    """The names that a file imports, as `package.module` or `package.module.name`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_modules() -> dict[str, Path]:
    """The modules of the tests and their helpers, with their files."""
    return {module_of(path, REPOSITORY): path for path in sorted((REPOSITORY / "tests").rglob("*.py"))}


def importers(tests: Mapping[str, Path]) -> dict[str, set[str]]:
    """For each module of source and tests, the modules that import it."""
    graph = grimp.build_graph(*(path.parent.name for at in FOLDERS for path in (REPOSITORY / at).glob("*/__init__.py")))
    known = graph.modules | set(tests)
    found: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules:
        found[module] |= graph.find_modules_that_directly_import(module)
    for module, path in tests.items():
        for name in imports_of(path.read_text(encoding="utf-8")):
            imported = name if name in known else name.rpartition(".")[0]
            found[imported].add(module)
    return found


def distances(module: str, importers: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """The number of imports from each module that needs a module."""
    found, waiting = {module: 0}, deque([module])
    while waiting:
        here = waiting.popleft()
        for other in importers.get(here, ()):
            if other not in found:
                found[other] = found[here] + 1
                waiting.append(other)
    return found


def main() -> None:
    """Print the nearest tests of the file that the command line names."""
    path = (REPOSITORY / sys.argv[1]).resolve()
    folder = path.relative_to(REPOSITORY).parts[0]
    tests = test_modules()
    module = module_of(path, REPOSITORY if folder == "tests" else REPOSITORY / folder)
    found = distances(module, importers(tests))
    rows = sorted(
        (found[name], str(file.relative_to(REPOSITORY)))
        for name, file in tests.items()
        if name in found and file.name.startswith("test_")
    )
    for distance, name in rows[:SHOWN]:
        print(distance, name)
    if len(rows) > SHOWN:
        print(f"and {len(rows) - SHOWN} at distances of {rows[SHOWN][0]} to {rows[-1][0]}")
    if not rows:
        sys.exit(f"no test imports {module}, also not by way of other modules")


if __name__ == "__main__":
    main()
