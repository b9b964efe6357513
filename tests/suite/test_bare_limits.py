"""No test uses a fixed number as a time limit, which suits only one machine: limits grow with the machine's factor (see
`limits`).
"""

from __future__ import annotations

import ast
import functools
import itertools
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
    "trainer/storage/test_store.py": {"Store(unreachable, timeout_seconds=0.3)": "the test is that the time passes"},
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
_SECONDS = re.compile(r"\d+(?:ms|s|m|h)?")
_INTERESTING = re.compile(
    rf"timeout|(?:{'|'.join(_CLOCKS)})\(\)|\.(?:{'|'.join(_POSITIONS.keys() - {'join'})})\(|\.join\((?:\w+\.)?[A-Z0-9]"
)
"""A file without a match need not be parsed."""

Names = frozenset[str]


def bare_limits(source: str) -> list[tuple[int, str]]:
    """Line and text of each call in the text of a module that has a limit which does not grow."""
    if not _INTERESTING.search(source):
        return []
    tree = ast.parse(source)
    numbers = _constants(tree) | _imported(tree)
    found = {
        (node.lineno, ast.get_source_segment(source, node) or "") for node in ast.walk(tree) if _is_bare(node, numbers)
    }
    return sorted(found)


def _is_bare(node: ast.AST, numbers: Names) -> bool:
    match node:
        case ast.Call():
            return any(_is_number(value, numbers) for value in _limits(node)) or _spelled_apart(node.args)
        case ast.BinOp(op=ast.Add()):
            return any(
                _is_now(one) and _is_number(other, numbers)
                for one, other in itertools.permutations((node.left, node.right))
            )
        case ast.Constant(value=str() as text):
            return _FLAG.search(text) is not None
        case ast.List() | ast.Tuple():
            return _spelled_apart(node.elts)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return any(_is_number(value, numbers) and not _grows(name, node) for name, value in _defaults(node))
        case _:
            return False


def _limits(call: ast.Call) -> Iterator[ast.expr]:
    """The arguments of a call that are limits and do not grow by themselves."""
    name = _name(call.func)
    for keyword in call.keywords:
        if keyword.arg in _KEYWORDS and (name, keyword.arg) not in SCALE_THEMSELVES:
            yield keyword.value
    position = _POSITIONS.get(name)
    if position is not None and isinstance(call.func, ast.Attribute) and len(call.args) > position:
        yield call.args[position]


def _defaults(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, ast.expr]]:
    """Name and default of each parameter that is a limit."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    with_default = [*zip(named[len(named) - len(arguments.defaults) :], arguments.defaults, strict=True)]
    for argument, value in (*with_default, *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)):
        if argument.arg in _KEYWORDS and value is not None:
            yield argument.arg, value


def _grows(parameter: str, function: ast.AST) -> bool:
    """Whether a function passes the parameter to a function that multiplies it by the factor."""
    for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
        grow = call.args if _name(call.func) in ("limit", "holds_within") else []
        grow = [*grow, *(each.value for each in call.keywords if (_name(call.func), each.arg) in SCALE_THEMSELVES)]
        if any(isinstance(value, ast.Name) and value.id == parameter for value in grow):
            return True
    return False


def _spelled_apart(words: list[ast.expr]) -> bool:
    """Whether a word is `--timeout` and the next one a number."""
    texts = [word.value if isinstance(word, ast.Constant) and isinstance(word.value, str) else "" for word in words]
    return any(
        one.startswith("--") and one.endswith("timeout") and _SECONDS.fullmatch(other)
        for one, other in itertools.pairwise(texts)
    )


def _is_number(node: ast.expr, numbers: Names) -> bool:
    match node:
        case ast.Constant(value=int() | float() as value):
            return value > 0 and value is not True
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in numbers
        case ast.BinOp(left=left, right=right):
            return _is_number(left, numbers) and _is_number(right, numbers)
        case _:
            return False


def _is_now(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and _name(node.func) in _CLOCKS


def _name(function: ast.expr) -> str:
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _constants(tree: ast.Module) -> Names:
    """Names in a module, and in its classes, whose values are numbers."""
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    assigned = [
        node
        for body in bodies
        for node in body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
    ]
    found: set[str] = set()
    for node in assigned:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if node.value is not None and _is_number(node.value, frozenset(found)):
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(found)


@functools.cache
def _constants_of(path: Path) -> Names:
    return _constants(ast.parse(path.read_text())) if path.exists() else frozenset()


def _imported(tree: ast.Module) -> Names:
    """Names that a module imports from other test modules and whose values are numbers."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
            there = _constants_of((TESTS.parent / (node.module or "").replace(".", "/")).with_suffix(".py"))
            found |= {alias.asname or alias.name for alias in node.names if alias.name in there}
    return frozenset(found)


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


IMPORTS = (
    "from tests.faults.test_network import PATIENCE as LONG\nOWN = 60\nTWICE = 2 * OWN\n\nclass Case:\n    HERE = 7\n\n"
)


@pytest.mark.parametrize(
    "code",
    [
        "subprocess.run(command, timeout=60)",
        "process.communicate(timeout=OWN)",
        "thread.join(10)",
        "thread.join(OWN)",
        "thread.join(timeout=2 * 60)",
        "process.wait(5)",
        "group.wait(timeout=5)",
        "event.wait(TWICE)",
        "event.wait(LONG)",
        "event.wait(Case.HERE)",
        "changed.wait_for(lambda: True, 30)",
        "asyncio.wait_for(work(), 120)",
        "future.result(10)",
        "connection.settimeout(0.5)",
        "select.select([leader], [], [], 60)",
        "threading.Barrier(2, timeout=OWN)",
        "urlopen(url, timeout=5)",
        "run(command, timeout_seconds=600)",
        "kubectl('get', 'pods', timeout_seconds=OWN)",
        "deadline = time.monotonic() + 60",
        "deadline = OWN + loop.time()",
        "kubectl('wait', '--timeout=60s')",
        "kubectl('get', '--request-timeout=3s')",
        "helm('upgrade', '--wait', '--timeout', '90s')",
        "command = ['helm', '--timeout', '5m']",
        "def wait(timeout=180.0):\n    popen.wait(timeout)",
        "def wait(*, timeout_seconds: float = OWN):\n    popen.wait(timeout_seconds)",
    ],
)
def test_a_bare_limit_is_found(code: str) -> None:
    assert [line for line, _ in bare_limits(IMPORTS + code)] == [IMPORTS.count("\n") + 1]


@pytest.mark.parametrize(
    "code",
    [
        "subprocess.run(command, timeout=limit(60))",
        "thread.join(limit(OWN))",
        "thread.join()",
        "event.wait(seconds)",
        "event.wait(0)",
        "', '.join(['1'])",
        "until(ready, timeout_seconds=60, failure=str)",
        "holds_within(ready, timeout_seconds=OWN)",
        "leader.wait_for(seen, timeout_seconds=LONG)",
        "deadline = time.monotonic() + limit(60)",
        "age = time.monotonic() - 60",
        "kubectl('wait', f'--timeout={limit(60)}s')",
        "helm('upgrade', '--timeout', f'{limit(90)}s')",
        "def wait(timeout_seconds=180.0):\n    holds_within(ready, timeout_seconds)",
        "def wait(timeout_seconds=180.0):\n    until(ready, timeout_seconds=timeout_seconds)",
        "def wait(timeout=180.0):\n    popen.wait(limit(timeout))",
        "def wait(timeout_seconds=None): ...",
        "pytestmark = pytest.mark.timeout(900)",
    ],
)
def test_a_scaled_limit_is_no_fault(code: str) -> None:
    assert bare_limits(IMPORTS + code) == []
