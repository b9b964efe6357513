"""What may stand in a cluster: objects as they should be, spoiled in any place, and objects that only look like a run's own."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from halcyon_api import names
from tests.operator.builders import UID, changed, deleted, disrupted, ended, jobset, pod, rfc, run, termination

LONG = 10_000
"""Characters of a text that is meant to do harm."""

TEXTS = ["True", "Failed", "9" * 30, "-1", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", rfc(5), "\x00", "\ud800", "../../kube-system"]
LONG_TEXTS = ["x" * LONG, "9" * LONG, "🦊" * LONG, "\n" * LONG, '{"a":' * (LONG // 5), "a," * (LONG // 2)]

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**70), max_value=2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(TEXTS)
    | st.sampled_from(LONG_TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
"""Any JSON value."""

STATUS: dict[str, Any] = {
    "phase": "Running",
    "attempt": 1,
    "jobSetUid": "jobset-1",
    "jobSetName": "demo-1",
    "startedAt": rfc(0),
    "jobSetRestarts": 1,
    "restarts": {"total": 1, "preempted": 1},
    "history": [{"attempt": 1, "restart": 1, "startedAt": rfc(0), "fromStep": 0, "firstStepAt": rfc(5)}],
    "progress": {"step": 40, "steps": 300},
    "conditions": [{"type": "Stalled", "status": "True", "reason": "RunChanged", "lastTransitionTime": rfc(1), "observedGeneration": 1}],
    "placement": {
        "slices": 2,
        "wantedSlices": 4,
        "waitingSince": rfc(0),
        "roomSince": rfc(0),
        "roomSlices": 4,
        "roomStep": 20,
        "avoided": [{"node": "node-b", "since": rfc(0), "blames": 2}],
        "blames": [{"node": "node-a", "time": rfc(3), "attempt": 1, "restart": 0}],
    },
    "checkpoint": {"step": 30, "attempt": 1, "path": "steps/30/", "time": rfc(9)},
    "goodput": {"ratio": 0.5, "wallSeconds": 5, "productiveSeconds": 2, "carried": {}},
}
"""A status with something in every part that decisions are made from."""

NEXT_VERSION: list[dict[str, Any]] = [
    {"apiVersion": "halcyon.dev/v1beta1"},
    {"spec.federation": {"clusters": ["a", "b"]}},
    {"spec.accelerator.type": "v9"},
    {"spec.trainer": {"schedule": {"steps": 300}}},
    {"status.phase": "Migrating"},
    {"status.attempt": {"number": 1, "epoch": 2}},
    {"status.conditions": [{"type": "Federated", "status": "Maybe"}]},
]
"""What an operator may meet that is older than the cluster's definition of the resource."""


def spoil(document: Any, data: st.DataObject, chance: int = 8) -> Any:
    """The document with junk in some places, members missing in others."""
    die = data.draw(st.integers(min_value=0, max_value=chance))
    if die == 0:
        return data.draw(JUNK)
    if isinstance(document, dict):
        kept = {key: spoil(value, data, chance * 2) for key, value in document.items() if data.draw(st.integers(0, 4 * chance)) > 0}
        return kept | (data.draw(st.dictionaries(st.text(max_size=6), JUNK, max_size=2)) if die == 1 else {})
    if isinstance(document, list):
        return [spoil(value, data, chance * 2) for value in document]
    return document


@st.composite
def run_documents(draw: st.DrawFn) -> dict[str, Any]:
    """A run with a status, elastic or not, of this version or of one to come."""
    specs: list[dict[str, Any]] = [
        {},
        {"image": "other:2"},
        {"suspend": True},
        {"recovery": {"elastic": {"minSlices": 1}}},
        {"ttlSecondsAfterFinished": 1},
    ]
    free = STATUS | {"conditions": []}
    statuses: list[Any] = [None, STATUS, free, free | {"jobSetUid": None}, free | {"attemptSpecHash": "1-other"}, {"attempt": 1}]
    document = run(draw(st.sampled_from(statuses)), **draw(st.sampled_from(specs)))
    to_come = draw(st.sampled_from(NEXT_VERSION)) if draw(st.integers(0, 4)) == 0 else {}
    return changed(document, _applicable(document, to_come))


def _applicable(document: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return change if "status" in document or not any(path.startswith("status.") for path in change) else {}


@st.composite
def look_alikes(draw: st.DrawFn, kind: str = "JobSet") -> dict[str, Any]:
    """An object that is the run's own but, perhaps, for its name, its owner, its labels or its namespace."""
    made = jobset(
        draw(st.sampled_from([1, 1, 0, 2, 3])), outcome=draw(st.sampled_from(["", "", "Completed", "Failed"])), reason="ReachedMaxRestarts"
    )
    if kind == "ConfigMap":
        made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": made["metadata"], "data": {names.RUN_DOCUMENT_KEY: "mine"}}
    metadata = made["metadata"]
    strange = ["demo-2", "demo-probe", "demo", "demo-1-x", "demo-one", "other-1", "coredns"]
    metadata["name"] = draw(st.sampled_from([*[metadata["name"]] * 5, *strange]))
    owner = draw(st.sampled_from([*[UID] * 5, "someone-else", "", None]))
    metadata["ownerReferences"] = [{"kind": "TrainingRun", "name": "demo", "uid": owner, "controller": True}] if owner is not None else []
    metadata["uid"] = draw(st.sampled_from([*[metadata["uid"]] * 3, "another", ""]))
    if draw(st.integers(0, 3)) == 0:
        metadata["labels"] = {**metadata.get("labels", {}), names.LABEL_ROLE: names.ROLE_PROBE}
    if draw(st.integers(0, 3)) == 0:
        metadata["deletionTimestamp"] = rfc(0)
    return made


PODS = [
    pod(),
    # The world that the status tells of, one of it being deleted; and one that only bears the run's labels.
    pod(1, 1),
    deleted(pod(1, 1, 1), 5),
    changed(pod(1, 1, 2), {"metadata.ownerReferences": []}),
    pod(1, 2, 0, 0, **ended(83, 12, termination("runChanged", 83))),
    pod(1, 2, 1, 0, **(ended(42, 12) | disrupted(10))),
    pod(1, 2, phase="Pending", containerStatuses=[{"name": "trainer", "state": {"waiting": {"reason": "ErrImagePull"}}}]),
]
"""Pods of a run, running, ended and waiting."""
