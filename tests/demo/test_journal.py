"""The journal keeps the first observation, waits for records, and gives up with one sentence."""

import threading
from typing import Any

import pytest

from halcyon_demo.journal import Failed, Journal
from halcyon_demo.records import Pod
from tests.demo.samples import RUN, line, pod


def run_document(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": RUN, "uid": "u1"}, "status": status}


def test_a_pod_keeps_the_time_of_its_first_sight() -> None:
    journal = Journal()
    journal.saw_pod(pod((1, 0), 10.0))
    later = journal.saw_pod(Pod(**{**vars(pod((1, 0), 20.0)), "ended": True}))
    assert (later.seen_at, later.ended) == (10.0, True)
    assert journal.pods(RUN) == (later,)
    assert journal.pods("other") == ()


def test_lines_come_back_in_the_order_of_their_times() -> None:
    journal = Journal()
    for time in (3.0, 1.0, 2.0):
        journal.saw_line(line("start", time))
    assert [seen.time for seen in journal.lines(RUN)] == [1.0, 2.0, 3.0]


def test_a_run_that_cannot_go_on_complains() -> None:
    journal = Journal()
    stalled = {
        "type": "Stalled",
        "status": "True",
        "reason": "NoValidCheckpoint",
        "message": "all are damaged",
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    }
    journal.saw_run(run_document(phase="Running"))
    assert journal.run(RUN).stop_reason == ""  # type: ignore[union-attr]
    journal.saw_run(run_document(phase="Failed", conditions=[stalled]))
    assert journal.run(RUN).stop_reason == "NoValidCheckpoint: all are damaged"  # type: ignore[union-attr]


def test_waiting_ends_when_it_comes() -> None:
    journal = Journal()
    writer = threading.Timer(0.05, lambda: journal.saw_run(run_document(phase="Succeeded")))
    writer.start()
    found = journal.wait(lambda: journal.run(RUN), timeout_seconds=30, failure=lambda: "never came")
    writer.join()
    assert found.status.phase == "Succeeded"


def test_waiting_gives_up_with_a_sentence() -> None:
    with pytest.raises(Failed, match="never came"):
        Journal().wait(lambda: None, timeout_seconds=0, failure=lambda: "never came")


def test_waiting_may_be_cut_short() -> None:
    def meanwhile() -> None:
        raise Failed("the run has stopped")

    with pytest.raises(Failed, match="the run has stopped"):
        Journal().wait(lambda: None, timeout_seconds=600, failure=lambda: "never came", meanwhile=meanwhile)
