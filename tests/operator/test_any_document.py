"""Whatever document the schema allows, no reconcile of it fails, and its run can be suspended and deleted."""

from __future__ import annotations

import json
import logging
from random import Random
from typing import Any

import pytest

from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.status_writes import status_document
from halcyon_operator.objects.jobset import build
from tests.examples_tried import tried_with
from tests.operator.builders import SPEC, at, head, jobset, observed, pod, report, rfc, run
from tests.operator.simulation import RUN, SimulatedCluster
from tests.valid_documents import places, random_spec, with_extremes

TOPOLOGY = {"slices": 2, "hosts": 2, "devices": 2, "mesh": {"replica": 2, "data": 1, "fsdp": 1, "tensor": 1}}
BEGUN = {"attempt": 1, "jobSetUid": "jobset-1", "jobSetName": "demo-1", "startedAt": rfc(0), "topology": TOPOLOGY}
RUNNING = {"jobsets": [jobset()], "pods": [pod()], "report": report()}


def decide(document: dict[str, Any], seconds: float, **seen: Any) -> None:
    decision = reconcile(observed(document, **seen), at(seconds))
    json.dumps([build(plan) for plan in decision.create])
    if decision.status is not None:
        json.dumps(status_document(decision.status), allow_nan=False)


@pytest.mark.slow
@tried_with(120, 1500)
def test_no_value_that_a_field_may_have_makes_a_reconcile_fail(examples: int) -> None:
    """Each extreme value of each field, in turn; `make test` takes a part of them."""
    found = with_extremes(SPEC)
    assert len({place for place, *_ in found}) > 0.9 * len(list(places())), "nearly every field has values"
    valid = 0
    for place, value, spec in found[:examples]:
        document = run() | {"spec": spec}
        try:
            valid += observed(document).run.spec is not None
            decide(document, 1)
            decide(document | {"status": {"attempt": 1, "jobSetName": "demo-1"}}, 5)
            decide(document | {"status": BEGUN}, 4000, **RUNNING)
        except Exception as error:
            raise AssertionError(f"{'.'.join(map(str, place))}: {value!r:.80}") from error
    assert valid > examples / 3


@pytest.mark.slow
@tried_with(12, 300)
def test_runs_with_random_edits_are_managed_until_they_are_deleted(
    examples: int, caplog: pytest.LogCaptureFixture
) -> None:
    """`settle` fails if the reconciles do not come to rest."""
    caplog.set_level(logging.ERROR)
    for seed in range(examples):
        random = Random(seed)
        cluster = SimulatedCluster(run() | {"spec": random_spec(SPEC, random, random.randrange(4))})
        for _ in range(4):
            cluster.settle()
            if cluster.jobset is not None and random.random() < 0.7:
                cluster.train(random.randrange(300))
                cluster.head = head(random.randrange(300))
            cluster.now += random.choice((1, 600, 1e6))
            cluster.settle()
            spec = cluster.api.objects[RUN]["spec"]
            cluster.edit(**random_spec(spec, random, random.randrange(1, 4)))
        cluster.edit(suspend=True)
        cluster.settle()
        cluster.now += 10_000  # longer than any wait for a save
        cluster.settle()
        assert cluster.jobset is None, seed
        cluster.api.objects[RUN]["metadata"]["deletionTimestamp"] = rfc(cluster.now)
        cluster.settle()
        assert not caplog.records, (seed, caplog.text)


def test_each_kind_of_extreme_value_is_among_them() -> None:
    values = {repr(value) for _, value, _ in with_extremes(SPEC)}
    assert {"0", "1e+300", "-0.0", str(2**53), "''", "[]", "True"} <= values
