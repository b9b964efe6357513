"""Every parser of cluster data is total: it accepts any JSON value, and reads less of a damaged one.

The table has every function and method of the operator that takes foreign data, and the parsers of the contract that it
uses. A new function that is not in the table fails the test.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import halcyon_api
import halcyon_operator
from halcyon_api.base import InvalidRun
from halcyon_api.checkpoint_documents import DamagedDocument, decode_head, decode_origin
from halcyon_api.defaults.resource import parse_defaults
from halcyon_api.reading import parse_run
from halcyon_api.status.plan import parse_plan
from halcyon_api.status.progress import Evaluated, Progress
from halcyon_api.status.run_status import TrainingRunStatus, parse_status
from halcyon_operator.kube.client import merge_patch
from halcyon_operator.kube.cluster import knows_the_rules
from halcyon_operator.kube.election import parse_lease
from halcyon_operator.model import untrusted
from halcyon_operator.model.views import ProcessGroup
from halcyon_operator.objects.jobset import role_of
from halcyon_operator.observe.checkpoints import parse_head
from halcyon_operator.observe.defaults import FoundDefaults, due, resolved_spec, root_of_run, taken, wanted
from halcyon_operator.observe.jobsets import controller_uid, parse_jobset, parse_object
from halcyon_operator.observe.node_notices import NodeNotices, notices_of
from halcyon_operator.observe.pod_events import newest_warning
from halcyon_operator.observe.pods import parse_pod, parse_termination, termination_message
from halcyon_operator.observe.reports import parse_report
from halcyon_operator.observe.runs import parse_prerequisite, parse_run_view
from halcyon_operator.observe.watch_cache import SeenPod, WatchCache
from halcyon_operator.observe.workloads import newest, parse_workload
from halcyon_operator.run.health import WriteWatch
from tests.operator.builders import defaults, jobset, pod, report, run
from tests.operator.hostile import EVALUATED, JUNK, LATER_STATUS, NODE, PROGRESS, STATUS, WORKLOAD, spoil
from tests.operator.test_jobset_version import NEW as SCHEMA

pytestmark = pytest.mark.slow

KEY = ("default", "demo")
LEASE = {
    "metadata": {"resourceVersion": "1"},
    "spec": {"holderIdentity": "a", "leaseDurationSeconds": 12, "leaseTransitions": 3},
}
RUN = run(STATUS | LATER_STATUS, defaults="ours", after={"run": "base"})
DEFAULTS = defaults(image="x:1", scheduling__nodeSelector={"a": "b"}, checkpoint__rootPrefix="s3://bucket/all")


def _refusing(parse: Callable[[Any], object], *refusals: type[Exception]) -> Callable[[Any], None]:
    """A parser that rejects input with exactly the exceptions that its callers expect."""

    def tried(document: Any) -> None:
        with suppress(*refusals):
            parse(document)

    return tried


def _taken(document: Any) -> None:
    """Defaults that were found for a run, taken by an intact run and by a damaged one."""
    read = FoundDefaults("ours", ("default", "halcyon"), (document, DEFAULTS))
    for whose in (RUN, document, run()):
        took = taken(whose, parse_status(untrusted.value_at(whose, "status")), read)
        resolved_spec(whose, took.values)
        found = parse_run_view(whose, read)
        assert found.spec is not None or found.problems


def _node(document: Any) -> None:
    nodes = NodeNotices()
    nodes.saw(document)
    nodes.on(KEY, ["node-a", ""])
    nodes.saw(document, deleted=True)


def _stored(document: Any) -> None:
    store = WatchCache()
    for deleted in (False, True):
        store.saw_run(document, deleted=deleted)
        store.saw_jobset(KEY, document, deleted=deleted)
        store.saw_pod(KEY, SeenPod(document), deleted=deleted)
    store.listed(KEY, document, untrusted.sequence(document) or (document,), (SeenPod(document),))


def _plain(value: Any) -> None:
    assert 0 <= untrusted.count(value) < 2**31
    assert untrusted.text(value, 10).isprintable()
    assert untrusted.integer(value) is None or abs(untrusted.integer(value) or 0) <= 2**63
    untrusted.moment(value)
    untrusted.value_at(value, "a", 0, value if isinstance(value, str) else "b")
    untrusted.mapping(value)
    untrusted.sequence(value)
    untrusted.mappings(value)
    untrusted.holds(untrusted.conditions_of(value).get("Failed", untrusted.mapping(value)))


def _echo(value: Any) -> None:
    echo = WriteWatch(lambda: 0.0)
    echo.record_write(KEY, value)
    echo.saw(KEY, value)


PARSERS: dict[str, tuple[Callable[[Any], object], Any]] = {
    "observe.runs.parse_prerequisite": (lambda document: parse_prerequisite("base", document), RUN),
    "observe.checkpoints.parse_head": (
        lambda document: parse_head(json.dumps(document).encode()),
        {"epoch": {"attempt": 1}, "committed": []},
    ),
    "observe.defaults.due": (lambda document: due(document, TrainingRunStatus()), RUN),
    "observe.defaults.root_of_run": (root_of_run, RUN),
    "observe.defaults.taken": (_taken, DEFAULTS),
    "observe.defaults.wanted": (wanted, RUN),
    "observe.defaults.resolved_spec": (
        lambda document: resolved_spec(document, {"image": "x:1", "scheduling.nodeSelector": {"a": "b"}}),
        RUN,
    ),
    "kube.election.parse_lease": (parse_lease, LEASE),
    "run.health.WriteWatch.saw": (_echo, "7"),
    "run.health.WriteWatch.record_write": (_echo, "7"),
    "observe.jobsets.controller_uid": (
        lambda document: controller_uid(untrusted.mapping(document)),
        jobset()["metadata"],
    ),
    "observe.jobsets.parse_jobset": (parse_jobset, jobset()),
    "observe.jobsets.parse_object": (lambda document: parse_object("ConfigMap", document), jobset()),
    "kube.cluster.knows_the_rules": (knows_the_rules, SCHEMA),
    "observe.workloads.newest": (lambda document: newest((document, WORKLOAD, document)), WORKLOAD),
    "observe.workloads.parse_workload": (parse_workload, WORKLOAD),
    "kube.client.merge_patch": (lambda document: merge_patch(untrusted.mapping(document), STATUS), STATUS),
    "observe.node_notices.NodeNotices.saw": (_node, NODE),
    "observe.node_notices.notices_of": (notices_of, NODE),
    "observe.observer.Observer.record_write": (_stored, RUN),
    "model.untrusted.count": (_plain, 1),
    "model.untrusted.value_at": (_plain, {"a": [1]}),
    "model.untrusted.integer": (_plain, "1"),
    "model.untrusted.mapping": (_plain, {}),
    "model.untrusted.mappings": (_plain, [{}]),
    "model.untrusted.conditions_of": (_plain, {"conditions": [{"type": "Failed", "status": "True"}]}),
    "model.untrusted.holds": (_plain, {"status": "True"}),
    "model.untrusted.moment": (_plain, "2026-01-01T00:00:00Z"),
    "model.untrusted.sequence": (_plain, []),
    "model.untrusted.text": (_plain, "x"),
    "observe.pod_events.newest_warning": (
        lambda document: newest_warning(parse_pod(pod()), (document,)),
        {"type": "Warning"},
    ),
    "observe.pods.parse_pod": (parse_pod, pod()),
    "objects.jobset.role_of": (role_of, jobset()),
    "observe.pods.parse_termination": (
        lambda document: parse_termination(json.dumps(document), ProcessGroup(1, 0)),
        {"attempt": 1, "cause": "failed", "step": 3},
    ),
    "observe.pods.termination_message": (termination_message, pod()),
    "api.status.plan.parse_plan": (parse_plan, '{"fits": true}'),
    "observe.runs.parse_run_view": (parse_run_view, RUN),
    "observe.watch_cache.WatchCache.listed": (_stored, RUN),
    "observe.watch_cache.WatchCache.saw_jobset": (_stored, jobset()),
    "observe.watch_cache.WatchCache.saw_run": (_stored, RUN),
    "observe.reports.parse_report": (
        lambda document: parse_report(json.dumps(document).encode(), "demo", (1, 0)),
        report(progress=PROGRESS).document(),
    ),
    "api.checkpoint_documents.decode_head": (
        _refusing(lambda document: decode_head(json.dumps(document).encode()), DamagedDocument),
        {"epoch": {"attempt": 1}},
    ),
    "api.checkpoint_documents.decode_origin": (
        _refusing(lambda document: decode_origin(json.dumps(document).encode()), DamagedDocument),
        {"run": "base", "root": "file:///base", "step": 3, "dataPosition": 0, "changes": ["a is 1"]},
    ),
    "api.defaults.resource.parse_defaults": (_refusing(parse_defaults, InvalidRun), DEFAULTS),
    "api.status.run_status.parse_status": (parse_status, STATUS | LATER_STATUS),
    "api.reading.parse_run": (_refusing(parse_run, InvalidRun), RUN),
}
"""By module and name, each with a correct document to damage."""

FOREIGN = {"object", "bytes", "tuple[object, ...]", "dict[str, object]", "Mapping[str, object]", "Iterable[object]"}
"""Annotations of parameters that hold foreign data."""


def _functions(package: Any) -> Iterator[tuple[str, Any]]:
    """Public functions and methods of a package, with module and name."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        place = info.name.partition(".")[2]
        for name, thing in vars(module).items():
            if getattr(thing, "__module__", "") != info.name or name.startswith("_"):
                continue
            if inspect.isfunction(thing):
                yield f"{place}.{name}", thing
            elif inspect.isclass(thing) and not getattr(thing, "_is_protocol", False):
                members = ((member, found) for member, found in vars(thing).items() if inspect.isfunction(found))
                yield from (
                    (f"{place}.{name}.{member}", found) for member, found in members if not member.startswith("_")
                )


def _annotations(function: Any) -> list[str]:
    """Those of the parameters, as they are written."""
    found = [parameter.annotation for parameter in inspect.signature(function).parameters.values()]
    return [one if isinstance(one, str) else re.sub(r"\b\w+\.", "", inspect.formatannotation(one)) for one in found]


def test_every_function_that_takes_foreign_data_is_in_the_table() -> None:
    taking = {
        place
        for place, function in _functions(halcyon_operator)
        if any(written in FOREIGN for written in _annotations(function))
    }
    parsing = {
        f"api.{place}"
        for place, function in _functions(halcyon_api)
        if function.__name__.startswith(("parse_", "decode_"))
        and _annotations(function)[0] in {"Any", "object", "bytes"}
    }
    assert (taking | parsing) - set(PARSERS) == set(), "these functions are in no row"
    assert set(PARSERS) - (taking | parsing) == set(), "these rows have no function"


@pytest.mark.parametrize("place", PARSERS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_parser_accepts_any_json_value(place: str, data: st.DataObject) -> None:
    parse, sound = PARSERS[place]
    parse(sound)
    parse(data.draw(JUNK))
    parse(spoil(sound, data, chance=3))


def test_the_documents_that_the_tests_damage_have_every_field() -> None:
    """Otherwise a new field would never be damaged."""
    assert {field.alias for field in TrainingRunStatus.model_fields.values()} - set(STATUS | LATER_STATUS) == set()
    assert {field.alias for field in Progress.model_fields.values()} - set(PROGRESS) == set()
    assert {field.alias for field in Evaluated.model_fields.values()} - set(EVALUATED) == set()
    status = parse_status(STATUS | LATER_STATUS)
    assert status.model_fields_set >= set(TrainingRunStatus.model_fields), "every field must be readable"
