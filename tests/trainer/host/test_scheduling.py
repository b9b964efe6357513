"""Threads of a process that uses Gloo do not take the processor from each other when they wake up."""

from __future__ import annotations

import subprocess
import sys

import pytest

POLICIES = """
import os, threading
from halcyon.host.linux import schedule_as_batch

schedule_as_batch()
policies = [os.sched_getscheduler(0)]
other = threading.Thread(target=lambda: policies.append(os.sched_getscheduler(0)))
other.start()
other.join()
print(policies == [os.SCHED_BATCH] * 2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this policy")
def test_the_policy_is_that_of_all_threads_started_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", POLICIES], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "True"
