"""No test uses a fixed number as a time limit, which suits only one machine: limits grow with the machine's factor (see
`limits`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SKIPPED = ("bench/", *(f"accelerator/{name}" for name in ("measure.py", "run.py", "torch_attention.py")))
"""What is not checked: benchmarks measure speed, and the script for accelerators has the limits that its command line
gives.
"""
SCALE_THEMSELVES = {
    ("connect", "timeout_seconds"),
    ("holds_within", "timeout_seconds"),
    ("until", "timeout_seconds"),
    ("wait", "timeout_seconds"),  # of observations and of trainer processes, which use holds_within
    ("wait_for", "timeout_seconds"),
}
"""Functions that multiply this argument by the factor themselves, so that `limit` would multiply it twice."""
ALLOWED = {
    "devcluster/test_edges.py": {'run(["sleep", "60"], timeout_seconds=0.05)': "the test is that the time passes"},
    "page/server.py": {
        "self.chat.released.acquire(timeout=0.05)": "one of many looks; the loop around them has the limit"
    },
    "trainer/checkpoint/test_save_roles.py": {
        "second.join(0.2)": "nothing happens meanwhile; a longer time would show nothing more"
    },
    "trainer/host/storage/test_store.py": {
        "Store(unreachable, timeout_seconds=0.3)": "the test is that the time passes"
    },
    "faults/test_pool.py": {"done.wait(RUNS_SECONDS)": "a slowed process runs for this time between pauses"},
    "trainer/run/test_own_work.py": {"over.wait(RUNS_SECONDS)": "a slowed process runs for this time between pauses"},
    "trainer/parallel/test_sync_point.py": {
        "waiting.join(0.1)": "nothing happens meanwhile; a longer time would show nothing more"
    },
    "trainer/parallel/test_process_group.py": {
        'join(f"127.0.0.1:{free_port()}", 1, 2, None, timeout_seconds=0.2)': "the test is that the time passes",
    },
}
"""By file: a call with a bare number, and why it is correct."""

_KEYWORDS = ("timeout", "timeout_seconds")
_POSITIONS = {
    "acquire": 1,
    "close": 0,
    "exception": 0,
    "join": 0,
    "result": 0,
    "select": 3,
    "settimeout": 0,
    "wait": 0,
    "wait_for": 1,
}
"""The position of the limit in the functions that take it as a positional argument."""
_CLOCKS = ("monotonic", "perf_counter", "time")
_FLAG = re.compile(r"--(?:[a-z]+-)?timeout=\d")
_INTERESTING = re.compile(
    rf"timeout|(?:{'|'.join(_CLOCKS)})\(\)|\.(?:{'|'.join(_POSITIONS.keys() - {'join'})})\(|\.join\((?:\w+\.)?[A-Z0-9]"
)
"""A file without a match need not be parsed."""


def bare_limits(source: str) -> list[tuple[int, str]]:
    """Line and text of each call in the text of a module that has a number as its limit."""
    if not _INTERESTING.search(source):
        return []
    found = {
        (node.lineno, ast.get_source_segment(source, node) or "")
        for node in ast.walk(ast.parse(source))
        if _is_bare(node)
    }
    return sorted(found)


def _is_bare(node: ast.AST) -> bool:
    match node:
        case ast.Call():
            return any(_is_number(value) for value in _limits(node))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return (_is_now(left) and _is_number(right)) or (_is_number(left) and _is_now(right))
        case ast.Constant(value=str() as text):
            return _FLAG.search(text) is not None
        case _:
            return False


def _limits(call: ast.Call) -> Iterator[ast.expr]:
    """The arguments of a call that are limits and do not grow by themselves."""
    name = _name(call.func)
    for keyword in call.keywords:
        if keyword.arg in _KEYWORDS and (name, keyword.arg) not in SCALE_THEMSELVES:
            yield keyword.value
    position = _POSITIONS.get(name)
    of_text = isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Constant)  # ", ".join(names)
    if position is not None and isinstance(call.func, ast.Attribute) and not of_text and len(call.args) > position:
        yield call.args[position]


def _is_number(node: ast.expr) -> bool:
    """Whether it is a positive number, or a name in capitals, as constants have."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return value > 0 and value is not True
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.isupper()
        case _:
            return False


def _is_now(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and _name(node.func) in _CLOCKS


def _name(function: ast.expr) -> str:
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def test_no_test_has_a_bare_limit() -> None:
    faults: list[str] = []
    allowed = {(name, text) for name, texts in ALLOWED.items() for text in texts}
    used: set[tuple[str, str]] = set()
    for path in sorted(TESTS.rglob("*.py")):
        name = path.relative_to(TESTS).as_posix()
        if name.startswith(SKIPPED) or path.samefile(__file__):
            continue
        for line, text in bare_limits(path.read_text()):
            if (name, text) in allowed:
                used.add((name, text))
            else:
                faults.append(f"tests/{name}:{line}: {' '.join(text.split())[:120]}")
    assert not faults, "\n".join(
        ["write limit(SECONDS), from tests.suite.limits, where a limit is a bare number:", *faults]
    )
    assert used == allowed, "the list of exceptions names calls that no longer exist"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("subprocess.run(command, timeout=60)", True),
        ("event.wait(PATIENCE)", True),
        ("deadline = time.monotonic() + 60", True),
        ("kubectl('wait', '--timeout=60s')", True),
        ("subprocess.run(command, timeout=limit(60))", False),
        ("event.wait(0)", False),
        ("until(ready, timeout_seconds=60, failure=str)", False),
        ("kubectl('wait', f'--timeout={limit(60)}s')", False),
    ],
)
def test_a_bare_limit_is_found(code: str, found: bool) -> None:
    assert bool(bare_limits(code)) == found
