"""Every second after a fault is counted in one part."""

import pytest

from halcyon_demo.on_slurm import hits_of
from halcyon_demo.records import Fault
from halcyon_demo.recovery import PARTS, recovery
from tests.demo.samples import line, pod, steps

STARTUP = {"importsSeconds": 1.0, "joinSeconds": 0.5, "restoreSeconds": 0.25, "compileSeconds": 0.75}


def test_the_recovery_from_an_eviction_is_split_into_its_parts() -> None:
    fault = Fault("eviction", 100.0)
    lines = [
        *steps(80, 99, begin=80.0),  # step 99 ends at 99.0
        line("step", 100.2, step=100, loss=0.05),
        line("preempted", 100.5, step=100, message="saved"),
        line("preempted", 101.0, process=1, step=100, message="saved"),
        line("compiled", 107.0, (1, 1), step=101, **STARTUP),
    ]
    found = recovery(fault, lines, [pod((1, 0), 0.0), pod((1, 1), 103.0), pod((1, 1), 103.5, (1, 0))])
    assert found is not None
    assert (found.group, found.resumed_step, found.lost_steps) == ((1, 1, 0), 100, 0)
    expected = {
        "detect": 1.0,
        "recreate": 2.0,
        "start": 1.5,
        "imports": 1.0,
        "join": 0.5,
        "restore": 0.25,
        "compile": 0.75,
    }
    assert found.seconds == pytest.approx(expected)
    assert tuple(found.seconds) == PARTS
    assert found.total_seconds == pytest.approx(107.0 - 100.0)


def test_a_crash_loses_the_steps_since_the_checkpoint() -> None:
    lines = [*steps(80, 99, begin=80.0), line("compiled", 110.0, (1, 1), step=76, **STARTUP)]
    found = recovery(Fault("SIGKILL", 99.5), lines, [pod((1, 1), 105.0)])
    assert found is not None
    assert (found.resumed_step, found.lost_steps, found.source) == (75, 24, "checkpoint")
    assert found.seconds["detect"] == 0.0  # no process has reported its end
    assert found.total_seconds == pytest.approx(110.0 - 99.5)


def test_a_new_attempt_counts_as_the_next_process_group() -> None:
    lines = [*steps(1, 9, (1, 4)), line("compiled", 50.0, (2, 0), step=10, **STARTUP)]
    found = recovery(Fault("eviction", 9.5), lines, [pod((2, 0), 40.0)])
    assert found is not None
    assert found.group == (2, 0, 0)


def test_a_recovery_in_place_has_no_new_pods() -> None:
    lines = [
        *steps(80, 99, begin=80.0),
        line("peerLost", 99.8, process=1, message="lost"),
        line("start", 100.0, process=1),
        line("restored", 102.0, (1, 0, 1), step=95, ownFiles=3, peerFiles=1),
        line("compiled", 103.0, (1, 0, 1), step=96, **STARTUP | {"importsSeconds": 0.0}),
    ]
    found = recovery(Fault("SIGKILL", 99.5), lines, [pod((1, 0), 0.0)])
    assert found is not None
    assert (found.group, found.resumed_step, found.lost_steps, found.source) == ((1, 0, 1), 95, 4, "memory")
    assert (found.seconds["detect"], found.seconds["recreate"]) == pytest.approx((0.3, 0.0))
    assert found.total_seconds == pytest.approx(103.0 - 99.5)


def test_a_pod_that_is_replaced_alone_is_the_new_one() -> None:
    lines = [*steps(80, 99, begin=80.0), line("compiled", 110.0, (1, 0, 1), step=100, **STARTUP)]
    found = recovery(Fault("eviction", 99.5), lines, [pod((1, 0), 0.0), pod((1, 0), 101.0, (1, 0))])
    assert found is not None
    assert found.seconds["recreate"] == pytest.approx(1.5)


def test_there_is_no_recovery_before_a_new_process_group_trains() -> None:
    fault = Fault("eviction", 100.0)
    assert recovery(fault, steps(80, 99, begin=80.0), [pod((1, 0), 0.0)]) is None
    assert recovery(fault, [], []) is None
    first_start = [line("compiled", 79.0, step=1, **STARTUP), *steps(1, 20, begin=80.0)]
    assert recovery(fault, first_start, [pod((1, 0), 0.0)]) is None


def test_what_followed_a_fault_on_slurm_counts_the_repeated_steps_of_the_next_processes() -> None:
    before = steps(1, 12)
    at = before[-2].time
    assert hits_of("kill", at, 0.0, before) == [], "the run has not gone on"
    after = steps(11, 14, (1, 0, 1), begin=15.0)
    (hit,) = hits_of("kill", at, 1.5, [*before, *after])
    assert (hit.resumed, hit.repeated, hit.source, hit.queued) == (10, 2, "checkpoint", 1.5)
    assert hit.seconds == after[0].time - at
