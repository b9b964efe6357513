"""A notice during a save to a slow store: the save in flight is finished, and no save begins that would not fit into
the grace period.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from halcyon_api.ends import ExitCode
from tests.faults.proxy import PASS, Fault, Request, Stall, proxied
from tests.suite.limits import limit
from tests.trainer.checkpoint.helpers import Root
from tests.trainer.checkpoint.roots import Gateway, gateway, s3_root
from tests.trainer.support.process_groups import run_document, start_processes

__all__ = ["gateway", "s3_root"]

COMMIT_SECONDS = 5
GRACE_SECONDS = 10
"""Enough for the rest of one save (1.2 times its duration, plus 1 s), and not for another one after it.

Both constants grow with the machine's factor, because the other parts of a save take longer on a slow machine.
"""


@pytest.mark.slow
def test_a_save_in_flight_is_finished_and_no_other_save_begins(tmp_path: Path, gateway: Gateway, s3_root: Root) -> None:
    commits = threading.Semaphore(0)

    def slow_commit(request: Request) -> Fault:
        if not (request.method == "PUT" and request.key.endswith("COMMIT")):
            return PASS
        over = threading.Event()
        threading.Timer(limit(COMMIT_SECONDS), over.set).start()
        commits.release()
        return Stall(over)

    with proxied(gateway.endpoint) as proxy:
        proxy.decide = slow_commit
        run = run_document(tmp_path / "root", steps=10**6)
        at_request = {"save": {"everySteps": 0}, "root": s3_root.spec.root, "endpoint": proxy.endpoint}
        run["spec"]["checkpoint"] = at_request
        group = start_processes(run, tmp_path / "run", grace_seconds=limit(GRACE_SECONDS))
        try:
            leader = group.leader
            leader.wait_for(lambda events: any(event.get("event") == "step" for event in events))
            group.signal(signal.SIGUSR1, 0)
            leader.wait_for(lambda events: any(event.get("event") == "checkpoint" for event in events))
            assert commits.acquire(timeout=limit(60))
            group.signal(signal.SIGUSR1, 0)
            assert commits.acquire(timeout=limit(60)), "no second save began"
            begun = max(leader.losses())
            leader.wait_for(
                lambda events: any(event.get("event") == "step" and event["step"] > begun + 1 for event in events)
            )
            group.signal(signal.SIGTERM, 1)
            assert group.wait() == [ExitCode.PREEMPTED] * 2
        finally:
            group.reap()
    report = leader.report()
    saved = [event["step"] for event in leader.events if event.get("event") == "checkpoint"]
    assert (report["saved"], report["checkpointStep"]) == ("inFlight", saved[1])
    assert report["step"] > saved[1]
    assert f"so only the save in flight, of step {saved[1]}, was finished; " in report["message"]
    assert not commits.acquire(blocking=False), "a third save began"
