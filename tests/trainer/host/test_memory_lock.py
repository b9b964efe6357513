"""The limit of locked memory, tested in a separate process: a lowered limit cannot always be raised again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.suite.limits import limit

SCRIPT = """
import os, resource, sys
from halcyon.host.linux import NO_LIMIT, raise_memory_lock
resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 65536))
if sys.argv[1] == "user" and os.getuid() == 0:
    os.setuid(65532)
print(raise_memory_lock(), NO_LIMIT)
"""


def raised(whose: str) -> list[str]:
    command = [sys.executable, "-c", SCRIPT, whose]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=limit(60)).stdout.split()


@pytest.mark.slow
def test_a_user_gets_the_hard_limit_and_no_error() -> None:
    allowed, no_limit = raised("user")
    assert allowed in ("65536", no_limit)


@pytest.mark.slow
def test_a_process_that_may_raise_the_limit_removes_it() -> None:
    allowed, no_limit = raised("own")
    assert allowed in ("65536", no_limit)
