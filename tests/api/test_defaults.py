"""The fields that a run takes from its defaults: the promises of the merge, and the schema that both kinds have in
common.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from halcyon_api.base import InvalidRun
from halcyon_api.defaults.files import load_defaults, load_resolved, with_values
from halcyon_api.defaults.resource import BUILT_IN, parse_defaults
from halcyon_api.defaults.status import DefaultsStatus, read_values, written
from halcyon_api.defaults.units import (
    PREFIX,
    ROOT,
    UNITS,
    Values,
    kept_place,
    merged,
    resolved,
    values_of_defaults,
    values_of_run,
)
from halcyon_api.edits.changes import values_of
from halcyon_api.edits.classes import class_of, leaves_of
from halcyon_api.generate.crd import custom_resource_definition, defaults_definition
from halcyon_api.reading import parse_run
from halcyon_api.training_run import TrainingRunSpec
from tests.api.documents import document

SAMPLES: dict[str, list[Any]] = {
    "image": ["a.example/t:1", "b.example/t:2"],
    "imagePullPolicy": ["Always", "Never"],
    "accelerator.hostResources.cpu": ["2", "4"],
    "accelerator.hostResources.memory": ["2Gi", "8Gi"],
    "accelerator.hostResources.ephemeralStorage": ["10Gi", "20Gi"],
    "data.cache.root": ["s3://cache/a", "s3://cache/b"],
    "data.cache.workers": [2, 0],
    "data.cache.shardTokens": [4096, 8192],
    "data.cache.memoryMebibytes": [1, 2],
    "data.volume": [{"claim": "a", "mountPath": "/a"}, {"claim": "b", "mountPath": "/b"}],
    "checkpoint.endpoint": ["http://a:1", "http://b:2"],
    "checkpoint.region": ["a", "b"],
    "checkpoint.credentialsSecret": [{"name": "a"}, {"name": "b"}],
    "checkpoint.accessRetrySeconds": [0, 60],
    "checkpoint.save": [{"auto": True}, {"everySteps": 7}],
    "checkpoint.verify": [{"everySaves": 1}, {"everySaves": 0}],
    "checkpoint.keep": [3, 2],
    "recovery.maxRestarts": [1, 10],
    "recovery.gracePeriodSeconds": [5, 30],
    "recovery.stepTimeoutSeconds": [5, 60],
    "recovery.badNodes.blames": [0, 1],
    "recovery.badNodes.maxNodes": [1, 2],
    "recovery.badNodes.expireSeconds": [1, 2],
    "recovery.badNodes.giveUpSeconds": [1, 2],
    "scheduling.nodeSelector": [{"pool": "a", "zone": "1"}, {"pool": "b"}, {}],
    "scheduling.labels": [{"team": "a", "cost": "1"}, {"team": "b"}, {}],
    "scheduling.tolerations": [[{"key": "a"}], [{"key": "b"}, {"key": "c"}], []],
    "scheduling.priorityClassName": ["a", "b"],
    "scheduling.queue": [{"name": "research"}, {"name": "batch", "priorityClass": "low"}],
    "scheduling.serviceAccountName": ["a", "b"],
    "telemetry.port": [9000, 9400],
    "telemetry.statusIntervalSeconds": [1, 5],
    "ttlSecondsAfterFinished": [0, 60],
    "env": [
        [{"name": "XLA_FLAGS", "value": "--a"}, {"name": "NCCL_DEBUG", "value": "INFO"}],
        [{"name": "NCCL_DEBUG", "value": "WARN"}],
        [
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
            {"name": "XLA_FLAGS", "value": ""},
        ],
        [],
    ],
    PREFIX: ["s3://bucket", "s3://other/path/"],
}
PLACE = {unit.path for unit in UNITS if unit.store}


def some_units(*more: str) -> st.SearchStrategy[Values]:
    paths = [unit.path for unit in UNITS] + list(more)
    samples = SAMPLES | {ROOT: ["s3://own/a", "s3://own/b"]}
    return st.fixed_dictionaries({}, optional={path: st.sampled_from(samples[path]) for path in paths}).map(
        copy.deepcopy
    )


DEFAULTS = some_units(PREFIX)
RUNS = some_units(ROOT)


def as_spec(values: Values, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """A spec that sets these units."""
    spec = copy.deepcopy(base or {})
    for path, value in values.items():
        *sections, field = path.split(".")
        node = spec
        for section in sections:
            node = node.setdefault(section, {})
        node[field] = value
    return spec


def bare() -> dict[str, Any]:
    """A run's spec that sets no unit."""
    return document(spec__checkpoint=...)["spec"]


def by_name(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {entry["name"]: entry for entry in entries}


def test_there_is_a_sample_of_every_unit() -> None:
    assert {unit.path for unit in UNITS} | {PREFIX} == SAMPLES.keys()


@given(a=DEFAULTS, b=DEFAULTS, c=DEFAULTS)
def test_merging_is_associative_and_empty_defaults_change_nothing(a: Values, b: Values, c: Values) -> None:
    assert merged(merged(a, b), c) == merged(a, merged(b, c))
    assert merged(a, {}) == merged({}, a) == merged(a, a) == a


@given(upper=DEFAULTS, lower=DEFAULTS)
def test_the_more_specific_document_decides_unit_by_unit(upper: Values, lower: Values) -> None:
    result = merged(upper, lower)
    for unit in UNITS:
        if unit.path in upper and unit.merged:
            below = lower.get(unit.path, {})
            assert result[unit.path] == {**below, **upper[unit.path]}
        elif unit.path in upper and unit.named:
            assert by_name(result[unit.path]) == {**by_name(lower.get(unit.path, [])), **by_name(upper[unit.path])}
            assert len(result[unit.path]) == len(by_name(result[unit.path]))
        elif unit.path in upper:
            assert result[unit.path] == upper[unit.path], "the unit must come whole from one document"
        elif unit.path in lower and not (unit.store and PREFIX in upper):
            assert result[unit.path] == lower[unit.path]
        else:
            assert unit.path not in result, "no value may appear from nowhere"


@given(run=RUNS, namespace=DEFAULTS, cluster=DEFAULTS)
def test_a_run_merged_with_its_defaults_keeps_its_own_values(run: Values, namespace: Values, cluster: Values) -> None:
    written_spec = as_spec(run, bare())
    before = copy.deepcopy(written_spec)
    spec = resolved(written_spec, merged(namespace, cluster), "team", "small")
    assert written_spec == before, "the user's document must not be changed"
    found = values_of_run(spec)
    for path, value in run.items():
        if path == "env":
            assert by_name(found[path]) == {**by_name(found[path]), **by_name(value)}, "a run's own value has priority"
        else:
            assert found[path] == (
                value if path not in ("scheduling.nodeSelector", "scheduling.labels") else {**found[path], **value}
            ), "a run's own value has priority"
    prefix = namespace.get(PREFIX, cluster.get(PREFIX))
    assert found.get(ROOT) == run.get(ROOT, f"{prefix.rstrip('/')}/team/small" if prefix else None)
    assert resolved(spec, merged(namespace, cluster), "team", "small") == spec, "a second merge must change nothing"
    if ROOT in found:
        parse_run(document() | {"spec": spec})


@given(run=RUNS, namespace=DEFAULTS, cluster=DEFAULTS)
def test_store_settings_never_come_from_a_level_below_the_one_that_names_the_root(
    run: Values, namespace: Values, cluster: Values
) -> None:
    levels = [run, namespace, cluster]
    naming = next((number for number, level in enumerate(levels) if {ROOT, PREFIX} & level.keys()), len(levels) - 1)
    found = values_of_run(resolved(as_spec(run, bare()), merged(namespace, cluster), "team", "small"))
    for path in PLACE:
        assert found.get(path) == next((level[path] for level in levels[: naming + 1] if path in level), None)


@given(recorded=DEFAULTS, fresh=DEFAULTS)
def test_a_run_that_reads_its_defaults_again_keeps_its_checkpoint_root(recorded: Values, fresh: Values) -> None:
    found = kept_place(recorded, fresh)
    assert found.get(PREFIX) == recorded.get(PREFIX)
    same = recorded.get(PREFIX) == fresh.get(PREFIX)
    for path in SAMPLES:
        assert found.get(path) == ((fresh if same or path not in PLACE | {PREFIX} else recorded).get(path))


@given(values=DEFAULTS)
def test_recorded_defaults_are_read_back_unchanged(values: Values) -> None:
    record = DefaultsStatus(values=written(values))
    assert read_values(DefaultsStatus.model_validate(record.model_dump(by_alias=True), by_alias=True)) == values


@given(values=DEFAULTS)
def test_defaults_are_checked_like_runs(values: Values) -> None:
    spec = as_spec(values)
    parse_defaults(
        {
            "apiVersion": "halcyon.dev/v1alpha1",
            "kind": "TrainingRunDefaults",
            "metadata": {"name": "default"},
            "spec": spec,
        }
    )
    assert values_of_defaults(spec) == values


@pytest.mark.parametrize(
    "hostile",
    [
        None,
        3,
        [],
        "x",
        {"recovery": 3},
        {"checkpoint": [1]},
        {"checkpoint": None},
        {"scheduling": {"nodeSelector": 3}},
        {"env": 3},
    ],
)
def test_no_malformed_document_breaks_the_merge(hostile: Any) -> None:
    values = {path: samples[0] for path, samples in SAMPLES.items()}
    assert isinstance(values_of_defaults(hostile), dict)
    if isinstance(hostile, dict):
        found = resolved(hostile, values, "team", "small")
        wrong = [(key, value) for key, value in hostile.items() if not isinstance(value, dict) and value is not None]
        assert all(found[key] == value for key, value in wrong), (
            "wrong values must stay, so that the schema rejects them"
        )


def test_no_frozen_field_is_in_the_table_of_defaults() -> None:
    paths = {leaf.path for leaf in leaves_of(TrainingRunSpec)}
    for unit in UNITS:
        below = [path for path in paths if path == unit.path or path.startswith(f"{unit.path}.")]
        assert below, f"a run has no field {unit.path}"
        assert all(class_of(path) != "frozen" for path in below)


def node_at(schema: dict[str, Any], path: str) -> dict[str, Any]:
    for part in path.split("."):
        schema = schema["properties"][part]
    return schema


def test_both_schemas_describe_a_field_equally_except_its_default() -> None:
    run, defaults = (
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        for definition in (custom_resource_definition(), defaults_definition())
    )
    for unit in UNITS:
        of_run, of_defaults = dict(node_at(run, unit.path)), dict(node_at(defaults, unit.path))
        assert "default" not in of_run, "a default of the API server would count as the user's value"
        assert of_run.pop("description").startswith(of_defaults.pop("description"))
        assert of_run == of_defaults


def test_the_built_in_defaults_are_the_last_level_and_change_no_run() -> None:
    bare_run = parse_run(document())
    filled = resolved(document()["spec"], BUILT_IN, "default", "small")
    assert parse_run(document() | {"spec": filled}).spec == bare_run.spec
    assert values_of_run(filled).keys() == BUILT_IN.keys() | {ROOT}
    assert BUILT_IN["telemetry.port"] == 9400
    assert BUILT_IN["checkpoint.save"]["everySteps"] == 100


def test_the_api_server_fills_in_no_field_that_defaults_may_set() -> None:
    (version,) = custom_resource_definition()["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]

    def filled(schema: dict[str, Any], value: Any) -> Any:
        if not isinstance(value, dict) or "properties" not in schema:
            return value
        absent = {
            name: child["default"]
            for name, child in schema["properties"].items()
            if "default" in child and name not in value
        }
        return {name: filled(schema["properties"][name], member) for name, member in (value | absent).items()}

    empty = filled(spec, {})
    assert values_of_run(empty) == {}
    assert {"recovery", "checkpoint", "scheduling", "telemetry"} <= empty.keys(), "rules need these sections"
    given = filled(
        spec, {"recovery": {}, "checkpoint": {"save": {}}, "data": {"cache": {}}, "accelerator": {"hostResources": {}}}
    )
    assert values_of_run(given) == {
        "checkpoint.save": filled(spec["properties"]["checkpoint"]["properties"]["save"], {})
    }


def test_the_error_for_a_run_without_a_root_says_what_to_do() -> None:
    for change in ({"spec__checkpoint": ...}, {"spec__checkpoint": {}}):
        with pytest.raises(
            InvalidRun,
            match=r"^spec.checkpoint.root: nothing says where [^;]*; set it, or have checkpoint.rootPrefix set",
        ):
            parse_run(document(**change))


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"checkpoint": {"rootPrefix": "s3://bucket/../c"}}, "rootPrefix must not contain"),
        ({"checkpoint": {"rootPrefix": "https://b"}}, "spec.checkpoint.rootPrefix"),
        (
            {"checkpoint": {"rootPrefix": "gs://bucket", "endpoint": "http://a:1"}},
            "endpoint belongs to an s3:// or az:// rootPrefix",
        ),
        (
            {"checkpoint": {"rootPrefix": "gs://bucket", "credentialsSecret": {"name": "a"}}},
            "credentialsSecret belongs to an s3://",
        ),
        ({"checkpoint": {"root": "gs://b/a"}}, "spec.checkpoint.root: unknown field"),
        ({"trainer": {"steps": 3}}, "spec.trainer: unknown field"),
        ({"recovery": {"maxRestarts": -1}}, "spec.recovery.maxRestarts"),
        (
            {"env": [{"name": "XLA_FLAGS", "value": "a"}, {"name": "XLA_FLAGS", "value": "b"}]},
            "spec.env: XLA_FLAGS is set twice; leave",
        ),
        ({"env": [{"name": "HF_TOKEN", "value": "a"}]}, "spec.env.*HF_TOKEN"),
        ({"env": [{"name": "PATH", "value": "/bin"}]}, "spec.env.*PATH"),
    ],
)
def test_invalid_defaults_are_rejected_in_one_sentence(spec: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRun, match=sentence):
        parse_defaults(
            {
                "apiVersion": "halcyon.dev/v1alpha1",
                "kind": "TrainingRunDefaults",
                "metadata": {"name": "x"},
                "spec": spec,
            }
        )


@pytest.mark.parametrize(
    "broken", [["XLA_FLAGS"], [{"value": "a"}], [{"name": 3}], [None], "XLA_FLAGS=a", {"XLA_FLAGS": "a"}]
)
def test_malformed_variables_are_left_for_the_schema_to_reject(broken: Any) -> None:
    sound = [{"name": "NCCL_DEBUG", "value": "INFO"}]
    assert merged({"env": broken}, {"env": sound})["env"] == broken
    assert merged({"env": sound}, {"env": broken})["env"] == sound
    assert resolved({"env": broken}, {"env": sound}, "team", "small")["env"] == broken


def test_the_runs_variables_keep_their_values_and_new_ones_are_appended() -> None:
    own = [{"name": "XLA_FLAGS", "value": "a"}, {"name": "NCCL_DEBUG", "value": "INFO"}]
    team = [
        {"name": "NCCL_DEBUG", "value": "WARN"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    ]
    assert resolved({"env": own}, {"env": team[:1]}, "team", "small")["env"] == own
    assert resolved({"env": own}, {"env": team}, "team", "small")["env"] == [*own, team[1]]


def test_files_are_merged_the_most_specific_first(tmp_path: Path) -> None:
    frame = {"apiVersion": "halcyon.dev/v1alpha1", "kind": "TrainingRunDefaults", "metadata": {"name": "default"}}
    team, cluster, run = (tmp_path / f"{name}.yaml" for name in ("team", "cluster", "run"))
    team.write_text(
        yaml.safe_dump(
            frame | {"spec": {"image": "team.example/t:1", "checkpoint": {"rootPrefix": "gs://bucket/runs"}}}
        )
    )
    lower = {
        "image": "cluster.example/t:1",
        "recovery": {"maxRestarts": 3},
        "checkpoint": {"region": "nowhere", "keep": 5},
    }
    cluster.write_text(yaml.safe_dump(frame | {"spec": lower}))
    run.write_text(yaml.safe_dump(document(metadata__namespace="team", spec__checkpoint=...)))
    spec = load_resolved(run, [team, cluster]).spec
    found = (spec.image, spec.checkpoint.root, spec.checkpoint.region, spec.checkpoint.keep, spec.recovery.max_restarts)
    assert found == ("team.example/t:1", "gs://bucket/runs/team/small", None, 5, 3)
    run.write_text(yaml.safe_dump(document(spec__defaults="")))
    assert "image" not in values_of(load_resolved(run, [team, cluster]).spec), "an empty name must take no defaults"
    team.write_text("kind: TrainingRun")
    with pytest.raises(InvalidRun, match=r"team.yaml: .*kind"):
        load_defaults([team])


def test_a_malformed_document_is_left_for_the_schema_to_reject() -> None:
    for hostile in (None, [], {"spec": 3}, {"metadata": 3, "spec": {}}, {"spec": {"defaults": []}}):
        with pytest.raises(InvalidRun):
            parse_run(with_values(hostile, {PREFIX: "s3://bucket"}))
