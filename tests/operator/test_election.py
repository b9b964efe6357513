"""The rules of the Lease, with injected clocks: two operators never may write at once, and the time without a leader is
bounded, whichever process stops and whenever it continues."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import strategies as st

from halcyon_operator.kube.election import (
    HOLD_SECONDS,
    LEASE_SECONDS,
    LONGEST_LEASE_SECONDS,
    POLL_SECONDS,
    Election,
    LeaseRecord,
    lease_document,
    parse_lease,
)
from tests.examples_tried import holds_for, tried_with
from tests.operator.builders import at


class Server:
    """The Lease on the API server: it accepts a write only over the current version."""

    def __init__(self) -> None:
        self.record = LeaseRecord()
        self.version = 0

    def write(self, record: LeaseRecord) -> LeaseRecord | None:
        if record.version != self.record.version:
            return None
        self.version += 1
        self.record = replace(parse_lease(lease_document(record, "n", "l")), version=str(self.version))
        return self.record


def turn(candidate: Election, server: Server, now: float, *, answered: bool = True, arrives: bool = True) -> None:
    """One turn of a candidate, as `leadership` does it. The write or its answer may be lost."""
    if not candidate.known:
        candidate.record_read(server.record, now)
    proposal = candidate.proposal(now, at(now))
    if proposal is None:
        return
    candidate.begin_write()
    written = server.write(proposal) if arrives else None
    if written is not None and answered:
        candidate.record_write(written, now)


def test_the_first_candidate_leads_and_the_second_waits() -> None:
    server, first, second = Server(), Election("first"), Election("second")
    turn(first, server, 0)
    turn(second, server, 0.5)
    assert (first.leads(1), second.leads(1), second.holder) == (True, False, "first")
    for now in range(2, 100, 2):
        turn(first, server, now)
        turn(second, server, now + 1)
        assert (first.leads(now + 1), second.leads(now + 1)) == (True, False)
    assert server.record.transitions == 0


def test_a_killed_leader_is_replaced_within_one_lease_and_two_polls() -> None:
    server, first, second = Server(), Election("first"), Election("second")
    turn(first, server, 0)
    now = 0.0
    while not second.leads(now):
        now += POLL_SECONDS
        turn(second, server, now)
    assert LEASE_SECONDS <= now <= LEASE_SECONDS + 2 * POLL_SECONDS < 20
    assert (server.record.holder, server.record.transitions) == ("second", 1)


def test_a_leader_that_cannot_renew_stops_before_another_may_begin() -> None:
    server, first, second = Server(), Election("first"), Election("second")
    turn(first, server, 0)
    turn(second, server, 0)
    turn(first, server, 2, arrives=False)
    assert first.leads(HOLD_SECONDS - 0.01)
    assert not first.leads(HOLD_SECONDS)
    turn(second, server, LEASE_SECONDS - 0.01)
    assert not second.leads(LEASE_SECONDS - 0.01)
    turn(second, server, LEASE_SECONDS)
    assert second.leads(LEASE_SECONDS)


def test_a_leader_that_continues_late_knows_at_once_that_it_lost_the_lease() -> None:
    server, first, second = Server(), Election("first"), Election("second")
    turn(first, server, 0)
    turn(second, server, 1)
    turn(second, server, 20)
    assert second.leads(20)
    assert (first.leads(20), first.left(20)) == (False, 0)
    turn(first, server, 20.1)
    assert not first.leads(20.1)
    turn(first, server, 20.2)
    assert (server.record.holder, first.holder) == ("second", "second")


def test_a_renewal_whose_answer_is_lost_does_not_count() -> None:
    server, first = Server(), Election("first")
    turn(first, server, 0)
    turn(first, server, 6, answered=False)
    assert not first.leads(HOLD_SECONDS)
    turn(first, server, 9)
    assert first.leads(9), "the Lease is still its own: it must read it and renew it"


def test_a_released_lease_is_taken_at_the_next_poll() -> None:
    server, first, second = Server(), Election("first"), Election("second")
    turn(first, server, 0)
    turn(second, server, 0.5)
    released = first.release(at(1))
    assert released is not None
    assert not first.leads(1)
    server.write(released)
    turn(second, server, 1.5)
    assert second.leads(1.5)
    assert second.release(at(2)) is not None
    assert first.release(at(2)) is None, "a Lease that another process holds must not be released"


def test_a_restarted_container_continues_to_lead_under_its_pods_name() -> None:
    server, before, after = Server(), Election("pod-a"), Election("pod-a")
    turn(before, server, 0)
    turn(after, server, 1)
    assert after.leads(1)


@pytest.mark.parametrize("seconds", [0, 10**9])
def test_a_damaged_lease_delays_a_candidate_for_a_bounded_time(seconds: int) -> None:
    server, first = Server(), Election("first")
    server.write(LeaseRecord("somebody", seconds, "never", "never", -5))
    turn(first, server, 0)
    turn(first, server, LONGEST_LEASE_SECONDS)
    assert first.leads(LONGEST_LEASE_SECONDS)
    assert parse_lease({"spec": [], "metadata": "x"}) == LeaseRecord()


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0, 7.9, 8.1, 11.9, 12.1, 15.0]),
        st.sampled_from(["well"] * 8 + ["write lost", "answer lost", "release", "dies"]),
        st.sampled_from([0.0, 0.0, 0.1, 3.0, 6.0]),
        st.sampled_from([0.0, 0.0, 0.1, 3.0, 6.0]),
    ),
    min_size=25,
    max_size=60,
)


@tried_with(100, 400)
def test_two_candidates_never_hold_the_lease_at_the_same_time(examples: int) -> None:
    """Candidates stop for any time between any two steps, lose or delay requests, end and start again: the times in
    which they hold the Lease never overlap."""
    holds_for(examples, check_two_candidates_never_hold_the_lease_at_the_same_time, EVENTS)


def check_two_candidates_never_hold_the_lease_at_the_same_time(
    story: list[tuple[str, float, str, float, float]],
) -> None:
    server, now, deaths = Server(), 0.0, 0
    candidates = {name: Election(name) for name in "abc"}
    holds: dict[str, float] = {}
    for name, pause, fate, there, back in story:
        now += pause
        candidate = candidates[name]
        if fate == "dies":
            deaths += 1
            candidates[name] = Election(f"{name}-{deaths}")
            continue
        if fate == "release":
            record = candidate.release(at(now))
            if record is not None:
                server.write(record)
            holds.pop(name, None)
            continue
        began = now
        if not candidate.known:
            candidate.record_read(server.record, now)
        proposal = candidate.proposal(now, at(now))
        if proposal is None:
            continue
        candidate.begin_write()
        now += there
        written = None if fate == "write lost" else server.write(proposal)
        now += back
        if written is not None and fate != "answer lost":
            candidate.record_write(written, began)
            if candidate.leads(now):
                assert all(other == name or until <= now for other, until in holds.items()), (
                    f"{name} leads at the same time as {holds}"
                )
                holds[name] = now + candidate.left(now)
        assert sum(one.leads(now) for one in candidates.values()) <= 1


def test_a_written_lease_is_read_back_unchanged() -> None:
    record = LeaseRecord("me", 12, "2026-11-20T12:00:00.000000Z", "2026-11-20T12:00:01.000000Z", 3, "7")
    document = lease_document(record, "halcyon-system", "halcyon")
    assert parse_lease(document) == record
    assert document["metadata"] == {"name": "halcyon", "namespace": "halcyon-system", "resourceVersion": "7"}
    fresh = Election("me")
    fresh.record_read(LeaseRecord(), 0)
    proposal = fresh.proposal(0, at(0) + timedelta(microseconds=5))
    assert proposal is not None
    assert proposal.renewed == "2026-11-20T12:00:00.000005Z"
    assert "resourceVersion" not in lease_document(proposal, "n", "l")["metadata"]
