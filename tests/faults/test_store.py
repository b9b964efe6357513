"""Faults of a store: the run retries requests within bounds, or reports the failure; no commit is made twice or lost.

A proxy in front of a real S3 gateway makes the faults (see `proxy`). The defences of a run are TensorStore's retries, a
deadline for every request, and another read of what is stored.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from halcyon.checkpoint import Callbacks, Limits, list_checkpoints
from halcyon.checkpoint.verify import find_damage
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import HEAD_KEY, decode_head
from halcyon_api.ends import ExitCode
from halcyon_devcluster.waiting import until
from tests.faults import rows
from tests.faults.proxy import LOSE, PASS, QUOTA, REFUSE, SLOW_DOWN, TOO_MANY, Fault, Hide, Proxy, Request, Stall
from tests.faults.table import Trials
from tests.suite.limits import limit
from tests.trainer.checkpoint.helpers import Root, fill, open_root, restore_right, save_step
from tests.trainer.checkpoint.processes import Child

pytestmark = [pytest.mark.slow, rows.STORE]


def once_each(fault: Fault, concerns: Callable[[Request], bool]) -> Callable[[Request], Fault]:
    """The fault for the first request of each (method, key) that it concerns."""
    seen: set[tuple[str, str]] = set()

    def decide(request: Request) -> Fault:
        one = (request.method, request.key)
        if one in seen or not concerns(request):
            return PASS
        seen.add(one)
        return fault

    decide.seen = seen  # type: ignore[attr-defined]
    return decide


def soon() -> Limits:
    """Short limits for a store that is down; a store that works answers within them."""
    return Limits(parts_seconds=limit(10), request_seconds=limit(2))


def everything(request: Request) -> bool:
    return True


def everything_passes(request: Request) -> Fault:
    return PASS


def writes(request: Request) -> bool:
    return request.method == "PUT"


def check_root(root: Root, good_root: Root, steps: list[int]) -> None:
    """Check without the proxy: these steps are committed once each and intact, and the root holds nothing else."""
    listing = list_checkpoints(good_root.spec)
    committed = [entry.step for entry in listing.committed]
    assert committed[: len(steps)] == steps
    assert len(set(committed)) == len(committed) <= len(steps) + 1, "one more may be kept: one that was read back"
    assert [find_damage(Store(good_root.spec), entry) for entry in listing.committed] == [()] * len(committed)
    assert listing.unfinished == ()
    with open_root(good_root) as checkpointer:
        restored = restore_right(checkpointer)
    assert restored.step == steps[0]


@pytest.mark.parametrize(
    ("fault", "concerns", "what"),
    [
        (REFUSE, everything, "refused requests"),
        pytest.param(SLOW_DOWN, everything, "answers 503", marks=pytest.mark.variant),
        pytest.param(TOO_MANY, everything, "answers 429", marks=pytest.mark.variant),
        (LOSE, writes, "lost answers of writes that were done"),
    ],
    ids=["refuse", "503", "429", "lose"],
)
def test_one_fault_of_every_request_is_retried(
    s3_root: Root,
    root_behind: Root,
    proxy: Proxy,
    trials: Trials,
    fault: Fault,
    concerns: Callable[[Request], bool],
    what: str,
) -> None:
    """Another process takes the root and saves two steps; each request for each key fails the first time."""
    proxy.decide = decide = once_each(fault, concerns)
    with Child("train", root_behind, steps=2) as child:
        assert child.end() == ExitCode.DONE, (child.events[-1:], child.noise())
        assert [event["step"] for event in child.events if event["event"] == "committed"] == [1, 2]
        assert not [event for event in child.events if event["event"] == "failed"]
    marks = Counter(
        request.key
        for request, code in proxy.served
        if writes(request) and request.key.endswith("COMMIT") and code == 200
    )
    assert sorted(marks.values()) == [1, 1], "a commit was made twice"
    proxy.decide = everything_passes
    check_root(root_behind, s3_root, [2, 1])
    trials.count(what, len(decide.seen))  # type: ignore[attr-defined]


def test_a_store_that_keeps_refusing_costs_checkpoints_and_not_the_training(
    s3_root: Root, root_behind: Root, proxy: Proxy, trials: Trials
) -> None:
    """Each save gives up within its bounds and reports why; the first save after the store works again is committed.

    The saves are in a child process: TensorStore goes on with the requests of a save that gave up, until its process
    ends.
    """
    limits = soon()
    with Child("told", root_behind, partsSeconds=limits.parts_seconds, requestSeconds=limits.request_seconds) as child:
        for fault in (PASS, REFUSE, SLOW_DOWN, QUOTA, PASS):
            proxy.decide = lambda request, fault=fault: PASS if fault is QUOTA and request.method != "PUT" else fault
            child.tell()
            saved = child.hear("saved")
        assert saved == {"event": "saved", "step": 5, "error": None}
        child.popen.stdin.close()
        failures = [event["text"] for event in child.all("failed")]
    assert [text.partition(" was not saved")[0] for text in failures] == [
        f"the checkpoint at step {step}" for step in (2, 3, 4)
    ]
    for failure in failures[:2]:
        # On a slow machine the limit is longer, and TensorStore's attempts end before it.
        assert f"DEADLINE_EXCEEDED: no answer within {limit(2)} s" in failure or "attempts failed" in failure, failure
    assert "QuotaExceeded" in failures[2]
    proxy.wait_until_idle()
    fill(root_behind, 6)  # the next start deletes files that arrived after the save gave up
    check_root(root_behind, s3_root, [6, 5])
    trials.count("saves during which the store was away or full", 3)


def save(checkpointer: Any, step: int) -> None:
    """Save, and wait for success or failure."""
    save_step(checkpointer, step)
    checkpointer._join()


@pytest.mark.parametrize("arrives", ["before", "after"])
def test_a_commit_that_stalls_is_made_once_or_not_at_all(
    s3_root: Root, root_behind: Root, proxy: Proxy, trials: Trials, arrives: str
) -> None:
    """The change of HEAD is delayed past its deadline.

    It arrives before the next save, or after that save's commit, which is too late.
    """
    release = threading.Event()
    with open_root(root_behind, limits=soon()) as checkpointer:
        save(checkpointer, 1)
        stalled: list[Request] = []

        def stall(request: Request) -> Fault:
            if request.key.endswith(HEAD_KEY) and request.method == "PUT" and not stalled:
                stalled.append(request)
                return Stall(release)
            return PASS

        proxy.decide = stall
        save(checkpointer, 2)
        assert stalled
        assert "step 2 was not saved: it is unknown whether HEAD was changed" in (checkpointer.last_error or "")
        if arrives == "before":
            release.set()
            wait_for_answers(proxy, stalled)
        save(checkpointer, 3)
        assert checkpointer.last_error is None
        release.set()
        wait_for_answers(proxy, stalled)
        save(checkpointer, 4)
        assert checkpointer.last_error is None
    check_root(root_behind, s3_root, [4, 3])
    assert len({entry.path for entry in decode_head(bytes((s3_root.folder / HEAD_KEY).read_bytes())).committed}) == 2
    (code,) = {code for request, code in proxy.served if request in stalled}
    assert code == (200 if arrives == "before" else 412)
    trials.count("changes of HEAD that arrived after their deadline")


def wait_for_answers(proxy: Proxy, requests: list[Request]) -> None:
    """Wait until the store has answered these requests."""
    until(
        lambda: {request for request, _ in proxy.served} >= set(requests),
        timeout_seconds=20,
        interval_seconds=0.02,
        failure=lambda: "a stalled request was never answered",
    )


def test_a_store_that_lists_late_is_rejected_when_a_root_is_opened(
    root_behind: Root, proxy: Proxy, trials: Trials
) -> None:
    proxy.decide = lambda request: Hide(lambda key: True)
    with Child("train", root_behind, steps=1) as child:
        assert child.end() == ExitCode.ROOT_UNUSABLE
        assert "lists late (a key just written is not listed)" in child.events[-1]["text"]
    trials.count("roots that list late refused")


def test_a_store_that_begins_to_list_late_loses_no_checkpoint(
    s3_root: Root, root_behind: Root, proxy: Proxy, trials: Trials
) -> None:
    """The files of a save are not yet listed when the save checks for them: the save is not committed, and the failure
    is reported.
    """
    fill(s3_root, 1)
    failures: list[str] = []
    with open_root(root_behind, callbacks=Callbacks(on_failure=failures.append)) as checkpointer:
        proxy.decide = lambda request: Hide(lambda key: f"{2:012d}" in key)
        save(checkpointer, 2)
        proxy.decide = everything_passes
        save(checkpointer, 3)
        assert checkpointer.last_error is None
    (failure,) = failures
    assert "the checkpoint at step 2 was not saved" in failure
    assert "missing from the store" in failure
    fill(root_behind, 4)  # the next start deletes the files that were not listed, and so could not be deleted
    check_root(root_behind, s3_root, [4, 3])
    trials.count("saves whose files were listed late")


@pytest.mark.parametrize(
    "steps", [5, pytest.param(12, marks=pytest.mark.variant), pytest.param(300, marks=pytest.mark.long)]
)
def test_random_faults_of_requests_lose_and_repeat_no_commit(
    s3_root: Root, root_behind: Root, proxy: Proxy, trials: Trials, steps: int
) -> None:
    """A fifth of all requests fails, each in one of four ways. The store counts the commits, not the writer."""
    chance = random.Random(steps)
    faults = 0

    def decide(request: Request) -> Fault:
        nonlocal faults
        if chance.random() > 0.2:
            return PASS
        faults += 1
        return chance.choice([REFUSE, SLOW_DOWN, TOO_MANY, LOSE])

    proxy.decide = decide
    with Child("train", root_behind, steps=steps) as child:
        assert child.end() == ExitCode.DONE, (child.events[-1:], child.noise())
        committed = [event["step"] for event in child.events if event["event"] == "committed"]
        failed = [event["text"] for event in child.events if event["event"] == "failed"]
    assert committed[-1] == steps
    assert len(committed) + len(failed) == steps
    proxy.decide = everything_passes
    check_root(root_behind, s3_root, committed[-1:-3:-1])
    trials.count("requests that failed at random", faults)
