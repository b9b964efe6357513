"""Log lines and pods are parsed; text that is no log line is skipped."""

from typing import Any

import pytest

from halcyon_demo.records import parse_line, parse_pod

LINE = '{"event":"step","time":"2026-01-02T03:04:05.678Z","run":"a","attempt":2,"restart":1,"process":0,"step":7,"loss":5.861652851104736}'


def test_a_step_line() -> None:
    line = parse_line(LINE)
    assert line is not None
    assert (line.run, line.group, line.process, line.event, line.step) == ("a", (2, 1, 0), 0, "step", 7)
    assert line.time == pytest.approx(1767323045.678)
    assert line.fields["loss"] == 5.861652851104736


@pytest.mark.parametrize(
    "text", ["", "Traceback (most recent call last):", "[1, 2]", "{}", LINE[:-1], '"text"', "null"]
)
def test_text_that_is_no_log_line_is_skipped(text: str) -> None:
    assert parse_line(text) is None


def pod_document(state: dict[str, Any] | None, **metadata: Any) -> dict[str, Any]:
    labels = {
        "halcyon.dev/run": "a",
        "halcyon.dev/attempt": "2",
        "jobset.sigs.k8s.io/job-index": "1",
        "jobset.sigs.k8s.io/restart-attempt": "3",
    }
    annotations = {"batch.kubernetes.io/job-completion-index": "0"}
    statuses = [] if state is None else [{"name": "trainer", "state": state}]
    return {
        "metadata": {"name": "a-2-s-1-0-x", "uid": "u", "labels": labels, "annotations": annotations, **metadata},
        "status": {"containerStatuses": statuses},
    }


def test_a_pod_before_its_container() -> None:
    pod = parse_pod(pod_document(None), 5.0)
    assert (pod.run, pod.group, pod.process, pod.seen_at) == ("a", (2, 3), (1, 0), 5.0)
    assert (pod.started, pod.ended, pod.being_deleted, pod.trouble) == (False, False, False, "")
    assert not parse_pod(pod_document({"waiting": {"reason": "ContainerCreating"}}), 0).trouble


def test_a_pod_with_a_container() -> None:
    running = parse_pod(pod_document({"running": {"startedAt": "2026-01-02T03:04:05Z"}}), 0)
    assert (running.started, running.ended) == (True, False)
    ended = parse_pod(pod_document({"terminated": {"exitCode": 42}}, deletionTimestamp="2026-01-02T03:04:05Z"), 0)
    assert (ended.started, ended.ended, ended.being_deleted) == (True, True, True)


def test_a_pod_that_cannot_start_has_the_reason() -> None:
    pod = parse_pod(pod_document({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}), 0)
    assert pod.trouble == "ImagePullBackOff: no such image"
