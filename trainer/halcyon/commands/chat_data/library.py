"""Questions about functions and classes of the standard library, answered by the first sentences of their
docstrings.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from halcyon.commands.chat_data.rows import Turn
from halcyon.data.sources.stdlib import stdlib_modules

LEAST, MOST = 15, 110
"""Characters of an answer."""
_LEFT_OUT = frozenset({"encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "turtledemo"})
"""Packages whose docstrings say little about Python: tables of characters, an editor, copied tools."""
_SENTENCE = re.compile(r"(.+?[.])(?:\s|$)")
_BAD = re.compile(r"[`{}<>|\\]|::|https?:|\s--|\.\.\.")
"""Markup, usage lines and cut sentences, which cannot be answers."""


def conversations(root: Path | None = None) -> Iterator[tuple[Turn, ...]]:
    """A question and its answer for each public function and class with a short first sentence, in the order of the
    modules.

    Args:
        root: Folder of the library. Default: that of this interpreter.
    """
    root = root if root is not None else Path(sysconfig.get_path("stdlib"))
    for path in stdlib_modules(root):
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        parts = module.split(".")
        if parts[0] in _LEFT_OUT or any(part.startswith("_") for part in parts):
            continue
        yield from ((turn,) for turn in of_module(module, (root / path).read_bytes()))


def of_module(module: str, source: bytes) -> Iterator[Turn]:
    """The questions about a module.

    Args:
        module: Its name, such as ``textwrap``.
        source: Its text; a text that is no Python has no questions.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    if (answer := sentence(ast.get_docstring(tree))) is not None:
        yield f"What is the module {module}?", answer
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if (answer := sentence(ast.get_docstring(node))) is not None:
            name = f"{module}.{node.name}"
            yield (f"What is {name}?" if isinstance(node, ast.ClassDef) else f"What does {name} do?"), answer


def sentence(docstring: str | None) -> str | None:
    """The first sentence of a docstring in one line; None: it has none that is an answer."""
    paragraph = " ".join((docstring or "").strip().partition("\n\n")[0].split())
    found = _SENTENCE.match(paragraph)
    if found is None:
        return None
    summary = found[1]
    if not LEAST <= len(summary) <= MOST or not summary.isascii() or not summary[0].isupper() or _BAD.search(summary):
        return None
    return summary
