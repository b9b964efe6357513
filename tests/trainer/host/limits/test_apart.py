"""Code of strangers runs in a process of its own, within its budget, whatever it does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from halcyon.host.limits import apart
from halcyon.host.limits.apart import Apart, Failed, OverLimit


class Code:
    """Code of a stranger."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def process(self) -> int:
        return os.getpid()

    def add(self, other: int) -> int:
        return self.number + other

    def fail(self) -> None:
        raise ValueError("no\nsecond line")

    def spin(self) -> None:
        sum(range(10**12))

    def fill(self) -> int:
        return len(bytes(10**10))

    def leave(self) -> None:
        os.abort()

    def say(self, count: int) -> str:
        return "a" * count


def code(number: int = 0) -> Apart:
    return Apart("spec.code", Code, number)


def test_a_call_runs_in_another_process_which_stays() -> None:
    first = code().call("process")
    assert first != os.getpid()
    assert code(1).call("process") == first
    assert code(1).call("add", 2) == 3


def test_an_exception_is_one_line() -> None:
    with pytest.raises(Failed, match=r"^no$"):
        code().call("fail")


@pytest.mark.parametrize(
    ("method", "args", "needs"),
    [
        ("spin", (), "0 s of processor time"),
        ("fill", (), "256 MiB of memory"),
        ("say", (5 * 2**20,), "4 MiB for what it prints"),
    ],
)
def test_a_call_over_its_budget_is_a_sentence_and_the_next_one_works(
    method: str, args: tuple[int, ...], needs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "SECONDS", 0.05)
    monkeypatch.setitem(apart._NEEDS, "time", "0 s of processor time")
    with pytest.raises(OverLimit, match=rf"^spec\.code: it needs more than {needs}"):
        code().call(method, *args)
    assert code(1).call("add", 2) == 3


def test_a_process_that_ends_itself_is_started_again() -> None:
    before = code().call("process")
    with pytest.raises(OverLimit):
        code().call("leave")
    assert code().call("process") != before


FORKS = """
import os
from tests.trainer.host.limits.test_apart import code
ours = code().call("process")
end, report = os.pipe()
if not (child := os.fork()):
    os.write(report, str(code().call("process")).encode())
    os._exit(0)
os.waitpid(child, 0)
assert int(os.read(end, 100)) != ours
assert code().call("process") == ours
"""


def test_a_forked_process_has_a_process_of_its_own() -> None:
    # In a fresh process: this one may have loaded JAX, which warns of a fork.
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])}
    subprocess.run([sys.executable, "-c", FORKS], env=environment, check=True)
