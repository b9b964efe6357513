"""The observations keeps the first observation, waits for records, and gives up with one sentence."""

import threading
from typing import Any

import pytest

from halcyon_demo.observations import Failed, Observations
from halcyon_demo.records import Pod
from tests.demo.samples import RUN, line, pod


def run_document(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": RUN, "uid": "u1"}, "status": status}


def test_a_pod_keeps_the_time_when_it_was_first_seen() -> None:
    observations = Observations()
    observations.saw_pod(pod((1, 0), 10.0))
    later = observations.saw_pod(Pod(**{**vars(pod((1, 0), 20.0)), "ended": True}))
    assert (later.seen_at, later.ended) == (10.0, True)
    assert observations.pods(RUN) == (later,)
    assert observations.pods("other") == ()


def test_lines_come_back_in_the_order_of_their_times() -> None:
    observations = Observations()
    for time in (3.0, 1.0, 2.0):
        observations.saw_line(line("start", time))
    assert [seen.time for seen in observations.lines(RUN)] == [1.0, 2.0, 3.0]


def test_a_stalled_run_has_a_stop_reason() -> None:
    observations = Observations()
    stalled = {
        "type": "Stalled",
        "status": "True",
        "reason": "NoValidCheckpoint",
        "message": "all are damaged",
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    }
    observations.saw_run(run_document(phase="Running"))
    assert observations.run(RUN).stop_reason == ""  # type: ignore[union-attr]
    observations.saw_run(run_document(phase="Failed", conditions=[stalled]))
    assert observations.run(RUN).stop_reason == "NoValidCheckpoint: all are damaged"  # type: ignore[union-attr]


def test_waiting_ends_when_the_record_arrives() -> None:
    observations = Observations()
    writer = threading.Timer(0.05, lambda: observations.saw_run(run_document(phase="Succeeded")))
    writer.start()
    found = observations.wait(lambda: observations.run(RUN), timeout_seconds=30, failure=lambda: "never came")
    writer.join()
    assert found.status.phase == "Succeeded"


def test_waiting_gives_up_with_a_sentence() -> None:
    with pytest.raises(Failed, match="never came"):
        Observations().wait(lambda: None, timeout_seconds=0, failure=lambda: "never came")


def test_waiting_may_be_cut_short() -> None:
    def meanwhile() -> None:
        raise Failed("the run has stopped")

    with pytest.raises(Failed, match="the run has stopped"):
        Observations().wait(lambda: None, timeout_seconds=600, failure=lambda: "never came", meanwhile=meanwhile)
