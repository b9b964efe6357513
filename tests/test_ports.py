"""Two test processes that run at the same time never get the same port."""

import json
import subprocess
import sys

from tests.ports import FIRST, SIZE, free_port

CHILD = """
import json, sys
from tests.ports import free_port
print(json.dumps([free_port() for _ in range(300)]), flush=True)
sys.stdin.read()
"""


def test_no_port_is_given_to_two_processes():
    own = {free_port() for _ in range(2 * SIZE)}
    command = [sys.executable, "-c", CHILD]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
    ):
        given = [own]
        for child in (one, other):
            assert child.stdout is not None
            given.append(set(json.loads(child.stdout.readline())))
    assert all(len(ports) > SIZE // 2 for ports in given)
    assert len(set.union(*given)) == sum(map(len, given))
    assert all(FIRST < port < 30_000 for ports in given for port in ports)
