"""Programs in the sandbox: what they may do, and what hostile ones cannot do.

All of them run in real processes under the real kernel.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from halcyon.evals.sandbox import child, running
from halcyon.evals.sandbox.running import Limits, Program, Unavailable, lacking, run
from halcyon.host.errors import BadConfiguration
from halcyon_devcluster.waiting import until
from tests.suite.limits import limit

LIMITS = Limits(processor_seconds=1, seconds=limit(20), memory_bytes=128 << 20, output_bytes=4096)
SECRET = "not for programs"  # noqa: S105

# Signal 0 asks only for the permission: a broken filter must not let this test end other processes.
REFUSED = {
    "read the environment": "import os\nprint(dict(os.environ))\nraise OSError if not os.environ else "
    "SystemExit('it has one')",
    "read the parent's environment": "import os\nopen(f'/proc/{os.getppid()}/environ').read()",
    "read its own process": "open('/proc/self/environ').read()",
    "list processes": "import os\nos.listdir('/proc')",
    "read credentials": "open('SECRET').read()",
    "read through a link": "import os\nos.symlink('SECRET', '/tmp/halcyon-link')\nopen('/tmp/halcyon-link').read()",
    "read a link that is there": "open('LINK').read()",
    "read a password file": "open('/etc/passwd').read()",
    "write a file": "open('FOLDER/new', 'w')",
    "write into the library": "import os\nopen(os.__file__, 'a')",
    "change a file's mode": "import os\nos.chmod('SECRET', 0o777)",
    "delete a file": "import os\nos.remove('SECRET')",
    "open a socket": "import socket\nsocket.socket()",
    "open a local socket": "import socket\nsocket.socketpair()",
    "fork": "import os\nos.fork()",
    "start a program": "import os\nos.execv('/bin/sh', ['sh'])",
    "start a process": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''])",
    "signal its parent": "import os\nos.kill(os.getppid(), 0)",
    "signal everybody": "import os\nos.kill(-1, 0)",
    "raise its limits": "import resource\ntry: resource.setrlimit(resource.RLIMIT_CPU, (10**6, "
    "10**6))\nexcept ValueError: raise "
    "OSError",
    "trace its parent": "import ctypes, os\nl = ctypes.CDLL(None, use_errno=True)\n"
    "if l.ptrace(16, os.getppid(), None, None) < 0: raise OSError(ctypes.get_errno(), 'ptrace')",
    "get capabilities": "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\n"
    "if l.setuid(0) < 0: raise OSError(ctypes.get_errno(), 'setuid')",
}


def variant(source: str, outcomes: set[str]) -> Any:
    return pytest.param(source, outcomes, marks=pytest.mark.variant)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("secrets")
    (found / "token").write_text(SECRET)
    (found / "token").chmod(0o644)
    (found / "link").symlink_to(found / "token")
    return found


@pytest.mark.slow
def test_a_program_reaches_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALCYON_TEST_TOKEN", SECRET)
    places = {"SECRET": folder / "token", "LINK": folder / "link", "FOLDER": folder}
    source = "answers = {}\n"
    for what, attempt in REFUSED.items():
        for name, place in places.items():
            attempt = attempt.replace(name, str(place))
        body = f"    exec({attempt!r}, {{}})"
        source += f"try:\n{body}\n    answers[{what!r}] = 'done'\nexcept OSError:\n    answers[{what!r}] = 'refused'\n"
    ran = run(Program(f"{source}print(answers)"), LIMITS)
    assert (ran.outcome, ran.errors) == ("passed", "")
    assert ast.literal_eval(ran.output.splitlines()[-1]) == dict.fromkeys(REFUSED, "refused")
    assert (folder / "token").read_text() == SECRET
    assert sorted(path.name for path in folder.iterdir()) == ["link", "token"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "outcomes"),
    [
        variant("while True: pass", {"timeout"}),
        variant("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", {"timeout"}),
        ("while True: print('x' * 1000)", {"output"}),
        variant("import sys\nfor _ in range(10**9): sys.stderr.write('line\\n')", {"output"}),
        ("kept = []\nwhile True: kept.append(bytearray(1 << 20))", {"memory"}),
        ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", {"timeout"}),
        variant("import threading\nthreading.Thread(target=print).start()", {"failed"}),
        (
            "import os\nfor number in range(3, 100):\n    try: os.close(number)\n    except OSError: "
            "pass\nos.close(1); os.close(2)",
            {"failed"},
        ),
        ("import ctypes\nctypes.string_at(0)", {"failed"}),
        ("import os\nos._exit(0)", {"failed"}),
        variant("raise SystemExit(0)", {"failed"}),
        variant("def f(): f()\nf()", {"failed"}),
        variant("this is no program", {"failed"}),
    ],
)
def test_a_program_that_does_not_end_well_is_stopped(source: str, outcomes: set[str]) -> None:
    ran = run(Program(source, "assert True"), LIMITS)
    assert ran.outcome in outcomes, ran
    assert len(ran.output) + len(ran.errors) <= 2 * LIMITS.output_bytes


_CALLERS = "import os, sys\nframe = sys._getframe()\nwhile frame:\n{body}    frame = frame.f_back\n"
_CLAIM = """    for value in list(frame.f_locals.values()):
        if isinstance(value, dict) and "token" in value:
            os.write(frame.f_locals["report"], value["token"].encode())
            os._exit(0)
"""
_RENAME = """    for name in ("exec", "compile", "partial", "deque", "map"):
        frame.f_globals[name] = frame.f_builtins[name] = lambda *arguments, **options: None
    for name in ("request", "report", "module"):
        frame.f_locals[name] = None
"""
_JUMP = """import sys
def follow(frame, event, value):
    if frame.f_code.co_filename == "<checks>" and frame.f_lineno == 2:
        frame.f_lineno = 3
    return follow
def answer():
    sys.settrace(follow)
    sys._getframe(1).f_trace = follow
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "error"),
    [
        (_CALLERS.format(body=_CLAIM), "NameError: name 'answer' is not defined"),
        (_CALLERS.format(body=_RENAME), "NameError: name 'answer' is not defined"),
        (_JUMP, "may not use sys.settrace"),
        (
            "import gc\nprint([one for one in gc.get_objects() if isinstance(one, dict) and 'token' in one])",
            "may not use gc.get_objects",
        ),
        ("import gc, sys\nprint(gc.get_referents(sys._getframe(1)))", "may not use gc.get_referents"),
        ("import ctypes, sys\nprint(ctypes.string_at(id(sys._getframe(1)), 1 << 12))", "may not use ctypes"),
        (
            "import sys\nsys.monitoring.register_callback(0, sys.monitoring.events.LINE, print)",
            "may not use sys.monitoring",
        ),
    ],
)
def test_a_program_cannot_claim_that_its_checks_passed(source: str, error: str) -> None:
    ran = run(Program(source, "answer()\nassert answer() == 1\nanswer = 2\n"), LIMITS)
    assert ran.outcome == "failed", ran
    assert error in ran.errors


@pytest.mark.slow
def test_a_program_is_compiled_as_a_file_of_its_own() -> None:
    # This project's files have imports from __future__, which a program must not get: here, annotations are evaluated.
    ran = run(Program("print('begins')\ndef double(numbers: List[int]): return numbers * 2"))
    assert (ran.outcome, ran.output) == ("failed", "begins\n")
    assert "NameError: name 'List' is not defined" in ran.errors


@pytest.mark.slow
def test_programs_compute_with_pythons_own_library() -> None:
    source = (
        "import collections, dataclasses, enum, functools, hashlib, itertools, json, math, random, re, string, typing, "
        "zoneinfo\n"
        "@dataclasses.dataclass\nclass Point:\n    x: 'int'\n"
        "def area(r): return math.pi * r * r\n"
        "print(hashlib.md5(b'x').hexdigest()[:4], json.dumps({'a': [1]}), sorted({'b', 'a'}), Point(1), {'a', 'b', "
        "'c', 'd'})"
    )
    one, other = (run(Program(source, "assert abs(area(1) - 3.14159) < 1e-4")) for _ in range(2))
    assert (one.outcome, one.errors) == ("passed", "")
    assert one.output == other.output  # even the order of a set
    assert one.output.startswith("9dd4 ")
    wrong = run(Program(source, "assert area(1) == 0"))
    assert wrong.outcome == "failed"
    assert "AssertionError" in wrong.errors


@pytest.mark.slow
def test_a_program_ends_with_its_parent(tmp_path: Path) -> None:
    mark = f"halcyon-{tmp_path.name}-{os.getpid()}"
    code = (
        "from halcyon.evals.sandbox.running import Limits, Program, run; run(Program('import time; time.sleep(100) # "
        f"{mark}'), Limits())"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        until(lambda: bool(_children(parent.pid)), timeout_seconds=30, failure=lambda: "the sandbox starts no process")
        children = _children(parent.pid)
        parent.kill()
    until(
        lambda: not any(_is_alive(one) for one in children),
        timeout_seconds=30,
        failure=lambda: "the program goes on without its parent",
    )


def test_without_what_it_needs_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for of, name, value, words in (
        (sys, "platform", "darwin", "it does not run Linux"),
        (child, "landlock_version", lambda: 0, "Landlock"),
        (child, "has_call_table", lambda: False, "are not known"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(of, name, value)
            assert words in str(lacking())
    assert lacking() is None
    running.check.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(child, "landlock_version", lambda: 0)
        with pytest.raises(
            BadConfiguration, match=r"no Landlock, or Landlock is not enabled; use Linux 5\.13 or later"
        ):
            running.check()
    running.check.cache_clear()


@pytest.mark.slow
def test_a_refusal_of_the_kernel_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    # The real process, with a kernel interface whose last step fails.
    broken = (
        "import sys; sys.path.append(sys.argv.pop()); from halcyon.evals.sandbox import child\n"
        "def refuse(): raise OSError(22, 'prctl 22: Invalid argument')\n"
        "child.install_filter = refuse\nchild.main()"
    )
    monkeypatch.setattr(running, "_START", broken)
    with pytest.raises(Unavailable, match=r"could not give its rights up: .*prctl 22: Invalid argument"):
        run(Program("print('never')"))
    assert child.REFUSED == b"refused "


def _children(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children")
    return [int(one) for one in found.read_text().split()] if found.exists() else []


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
