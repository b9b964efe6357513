"""The chart's limits on a real API server: a rejection is one sentence that names the field and the fix, and each
namespace has its own limits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_devcluster.control_plane import ControlPlane
from halcyon_devcluster.waiting import until
from tests.api.documents import document
from tests.apiserver.api import Api, Refused
from tests.apiserver.conftest import Helm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CHART = Path(__file__).parents[2] / "charts" / "halcyon"
DIGEST = "sha256:" + "0" * 64
LIMITS: dict[str, Any] = {
    "serviceAccounts": ["trainer", "other"],
    "images": ["registry.example/halcyon/"],
    "imageDigests": "required",
    "roots": ["gs://team/", "file:///checkpoints/", "s3://team/"],
    "endpoints": ["http://store.team.svc:7070"],
    "sources": ["gs://team/data/", "https://data.example/", "hf://datasets/team/", "hf://team/base@"],
    "types": ["cpu", "h100"],
    "slices": 2,
    "chipHours": 100,
    "priorityClasses": ["research"],
    "gpuDirect": False,
}
FITTING: dict[str, Any] = {
    "spec__budget": {"chipHours": 100},
    "spec__scheduling": {"serviceAccountName": "trainer"},
    "spec__image": f"registry.example/halcyon/trainer@{DIGEST}",
    "spec__checkpoint__root": "gs://team/small",
    "spec__data__cache": {"root": "gs://team/cache"},
    "spec__from": {"run": "x", "root": "gs://team/x"},
    "spec__data__sources": [
        {
            "name": "own",
            "text": {
                "paths": [
                    "gs://team/data/*.txt",
                    "https://data.example/a.txt",
                    "/data/../a.txt",
                    "b.txt",
                    "file:///c.txt",
                ]
            },
        },
        {"name": "hub", "huggingFace": {"dataset": "team/words"}},
    ],
    "spec__tokenizer": {"tokenizerJson": {"path": "hf://team/base@v1/tokenizer.json"}},
}
ON_S3: dict[str, Any] = FITTING | {
    "spec__checkpoint": {"root": "s3://team/small", "endpoint": "http://store.team.svc:7070"}
}
del ON_S3["spec__checkpoint__root"]


class Limited:
    """Two namespaces: one with its own limits, one with the default limits, which allow no image."""

    def __init__(self, api: Api, api_server: ControlPlane, helm: Helm, make_namespace: Callable[[str], str]) -> None:
        self._api = api
        self._kubectl = api_server.kubectl
        self._helm = helm
        self.team, self.others, self.release = map(make_namespace, ("team", "others", "release"))

    def apply(self, namespace: str, *, dry_run: bool = True, **changes: Any) -> str:
        """Apply a run. Returns the API server's error if it rejects it, or ""."""
        return self._answer(namespace, document(**changes), dry_run)

    def default(self, namespace: str, spec: dict[str, Any], *, dry_run: bool = True) -> str:
        """The same for defaults."""
        frame = {"apiVersion": "halcyon.dev/v1alpha1", "kind": "TrainingRunDefaults", "metadata": {"name": "default"}}
        return self._answer(namespace, frame | {"spec": spec}, dry_run)

    def release_with(self, limits: dict[str, Any]) -> list[dict[str, Any]]:
        """The objects of a release that limits both namespaces."""
        values = {
            "image": {"repository": "registry.example/operator"},
            "trainerImage": {"repository": "registry.example/trainer"},
            "watchNamespaces": [self.team, self.others],
            "limits": {"enabled": True, "default": {"images": []}, "namespaces": {self.team: limits}},
        }
        command = ["template", self.release, CHART, "--namespace", self.release, "--show-only", "templates/limits.yaml"]
        return list(yaml.safe_load_all(self._helm(*command, "--values", "-", stdin=yaml.safe_dump(values))))

    def apply_objects(self, objects: list[dict[str, Any]]) -> None:
        """Create or change these objects of a release."""
        self._kubectl.apply(objects)

    def delete(self, objects: list[dict[str, Any]]) -> None:
        """Delete these objects of a release."""
        self._kubectl("delete", "--filename=-", stdin=yaml.safe_dump_all(objects))

    def policies(self) -> list[dict[str, Any]]:
        """The stored policies of the release, with their status."""
        found = self._kubectl.json("get", "validatingadmissionpolicy")["items"]
        return [policy for policy in found if policy["metadata"]["name"].startswith(self.release)]

    def in_force(self) -> None:
        """Wait until both kinds are checked in both namespaces. An API server loads policies about once a second."""
        elsewhere = "elsewhere.example/trainer:1"
        until(
            lambda: all(
                "is not allowed in namespace" in answer
                for namespace in (self.team, self.others)
                for answer in (
                    self.apply(namespace, metadata__name="new", spec__image=elsewhere),
                    self.default(namespace, {"image": elsewhere}),
                )
            ),
            timeout_seconds=60,
            failure=lambda: "the policies do not come into force",
        )

    def _answer(self, namespace: str, found: dict[str, Any], dry_run: bool) -> str:
        # Server-side apply, because client-side apply stores the whole document in an annotation, which is too small
        # for a large one.
        try:
            self._api.apply(found, namespace, dry_run=dry_run)
        except Refused as refused:
            return str(refused)
        return ""


@pytest.fixture(scope="module")
def limited(api: Api, api_server: ControlPlane, helm: Helm, make_namespace: Callable[[str], str]) -> Limited:
    limited = Limited(api, api_server, helm, make_namespace)
    limited.apply_objects(limited.release_with(LIMITS))
    limited.in_force()
    return limited


def test_a_run_within_the_limits_is_accepted(limited: Limited) -> None:
    assert limited.apply(limited.team, **FITTING) == ""
    assert limited.apply(limited.team, **ON_S3) == ""
    assert limited.apply(limited.others, spec__scheduling={"serviceAccountName": "any"}) == "", (
        "a field without a limit must not be limited"
    )


def test_kubernetes_finds_no_wrong_type_in_the_expressions(limited: Limited, api_server: ControlPlane) -> None:
    with api_server.controllers("validatingadmissionpolicy-status-controller"):
        until(
            lambda: all(
                one.get("status", {}).get("observedGeneration") == one["metadata"]["generation"]
                for one in limited.policies()
            ),
            timeout_seconds=60,
            failure=lambda: yaml.safe_dump([policy.get("status") for policy in limited.policies()]),
        )
    found = [policy["status"]["typeChecking"] for policy in limited.policies()]
    assert found == [{}] * len(found) != []


def test_defaults_have_the_same_limits_as_the_runs_that_use_them(limited: Limited) -> None:
    fitting = {
        "image": FITTING["spec__image"],
        "scheduling": {"serviceAccountName": "trainer"},
        "checkpoint": {"rootPrefix": "gs://team"},
        "data": {"cache": {"root": "gs://team/cache"}},
    }
    assert limited.default(limited.team, fitting) == ""
    assert limited.default(limited.team, {"recovery": {"maxRestarts": 1}}) == "", (
        "a field that the defaults do not set must not be checked"
    )
    for change, sentence in (
        (
            {"image": "elsewhere.example/trainer:1"},
            "spec.image: elsewhere.example/trainer:1 is not allowed in namespace TEAM",
        ),
        ({"image": "registry.example/halcyon/trainer:1"}, "must be given by its digest in namespace TEAM"),
        ({"scheduling": {"serviceAccountName": "admin"}}, "serviceAccountName: admin is not allowed in namespace TEAM"),
        (
            {"checkpoint": {"rootPrefix": "gs://team-2"}},
            "spec.checkpoint.rootPrefix: gs://team-2 is not allowed in namespace TEAM",
        ),
        (
            {"data": {"cache": {"root": "gs://other/c"}}},
            "spec.data.cache.root: gs://other/c is not allowed in namespace TEAM",
        ),
        (
            {"checkpoint": {"endpoint": "http://mine.example"}},
            "spec.checkpoint.endpoint: http://mine.example is not allowed in namespace TEAM",
        ),
        (
            {"scheduling": {"serviceAccountName": "trainer", "priorityClassName": "urgent"}},
            "spec.scheduling.priorityClassName: urgent is not allowed in namespace TEAM",
        ),
        (
            {"checkpoint": {"rootPrefix": "s3://team"}},
            "spec.checkpoint.endpoint: none, which is AWS, is not allowed in namespace TEAM",
        ),
        (
            {"checkpoint": {}, "data": {"cache": {"root": "s3://team/c"}}},
            "spec.checkpoint.endpoint: none, which is AWS, is not allowed",
        ),
    ):
        assert sentence.replace("TEAM", limited.team) in limited.default(limited.team, fitting | change)
    on_s3 = {"rootPrefix": "s3://team", "endpoint": "http://store.team.svc:7070"}
    assert (
        limited.default(limited.team, fitting | {"checkpoint": on_s3, "data": {"cache": {"root": "s3://team/cache"}}})
        == ""
    )
    # A run without a root uses the root of defaults, which were checked. A run without a service account is checked as
    # `default`.
    bare = {key: value for key, value in FITTING.items() if key != "spec__checkpoint__root"} | {"spec__checkpoint": ...}
    assert limited.apply(limited.team, **bare) == ""
    assert "serviceAccountName: default is not allowed" in limited.apply(
        limited.team, **(bare | {"spec__scheduling": {}})
    )


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"spec__accelerator": {"type": "v5e", "topology": "2x2"}},
        "spec.accelerator.type: v5e is not allowed in namespace TEAM; take cpu or h100",
    ),
    (
        {"spec__accelerator": {"type": "cpu", "slices": 3}, "spec__trainer__batchSize": 12},
        "spec.accelerator.slices: 3 is above the 2 that a run in namespace TEAM may have; take fewer",
    ),
    (
        {"spec__budget": {"chipHours": 100.5}},
        "spec.budget.chipHours: 100.5 is not allowed in namespace TEAM; set at most 100",
    ),
    (
        {"spec__budget": {"until": "2100-01-01T00:00:00Z"}},
        "spec.budget.chipHours: 0 is not allowed in namespace TEAM; set at most 100",
    ),
    (
        {"spec__recovery": {"elastic": {"minSlices": 1, "maxSlices": 4}}},
        "spec.recovery.elastic.maxSlices: 4 is above the 2 that a run in namespace TEAM may have",
    ),
    (
        {"spec__place": {"otherwise": [{"accelerator": {"type": "v5e", "topology": "2x2"}}]}},
        "spec.place.otherwise.accelerator.type: v5e is not allowed in namespace TEAM; take cpu or h100",
    ),
    (
        {"spec__place": {"otherwise": [{"accelerator": {"type": "cpu", "slices": 4}}]}},
        "spec.place.otherwise.accelerator.slices: 4 is not allowed in namespace TEAM; take at most 2",
    ),
    (
        {
            "spec__accelerator": {"type": "h100", "topology": "1x8", "network": "gpuDirect"},
            "spec__trainer__batchSize": 8,
        },
        "spec.accelerator.network: gpuDirect is not allowed in namespace TEAM; leave it out",
    ),
    (
        {"spec__scheduling": {"serviceAccountName": "trainer", "priorityClassName": "urgent"}},
        "spec.scheduling.priorityClassName: urgent is not allowed in namespace TEAM; leave it out, or take research",
    ),
    (
        {"spec__scheduling": {"serviceAccountName": "trainer", "queue": {"name": "q", "priorityClass": "urgent"}}},
        "spec.scheduling.queue.priorityClass: urgent is not allowed in namespace TEAM",
    ),
    (
        {"spec__scheduling": {"serviceAccountName": "admin"}},
        "serviceAccountName: admin is not allowed in namespace TEAM; take trainer or other",
    ),
    (
        {"spec__scheduling": {}},
        "spec.scheduling.serviceAccountName: default is not allowed in namespace TEAM; take trainer or other",
    ),
    (
        {"spec__image": f"registry.example/halcyon-not/trainer@{DIGEST}"},
        "is not allowed in namespace TEAM; leave it out for the trainer that belongs to the operator, or take an "
        "image that begins with registry.example/halcyon/",
    ),
    ({"spec__image": f"registry.example/halcyon/../x@{DIGEST}"}, "is not allowed in namespace TEAM"),
    (
        {"spec__image": "registry.example/halcyon/trainer:1"},
        "must be given by its digest in namespace TEAM, as NAME@sha256:DIGEST",
    ),
    (
        {"spec__checkpoint__root": "gs://team-2/small"},
        "spec.checkpoint.root: gs://team-2/small is not allowed in namespace TEAM; take an address",
    ),
    ({"spec__checkpoint__root": "gs://other/team/small"}, "take an address below gs://team/ or file:///checkpoints/"),
    (
        {"spec__data__cache": {"root": "gs://other/cache"}},
        "spec.data.cache.root: gs://other/cache is not allowed in namespace TEAM",
    ),
    (
        {"spec__data__cache": {"root": "gs://team/../other"}},
        "spec.data.cache.root: gs://team/../other is not allowed in namespace TEAM",
    ),
    (
        {"spec__from": {"run": "x", "root": "gs://other/x"}},
        "spec.from.root: gs://other/x is not allowed in namespace TEAM",
    ),
    (
        {"spec__from": {"run": "x", "root": "gs://team/../x"}},
        "spec.from.root: gs://team/../x is not allowed in namespace TEAM",
    ),
    (
        {"spec__checkpoint": {"root": "s3://team/small", "endpoint": "https://mine.example"}},
        "spec.checkpoint.endpoint: https://mine.example is not allowed in namespace TEAM; take "
        "http://store.team.svc:7070",
    ),
    (
        {"spec__checkpoint": {"root": "s3://team/small"}},
        "spec.checkpoint.endpoint: none, which is AWS, is not allowed in namespace TEAM; take "
        "http://store.team.svc:7070",
    ),
    # Whatever store the defaults set, a root or endpoint in the run itself is still checked.
    (
        {"spec__checkpoint": {}, "spec__data__cache": {"root": "s3://team/cache"}},
        "spec.checkpoint.endpoint: none, which is AWS, is not allowed",
    ),
    (
        {"spec__checkpoint": {"endpoint": "http://mine.example"}},
        "spec.checkpoint.endpoint: http://mine.example is not allowed in namespace TEAM",
    ),
    (
        {
            "spec__data__sources": [
                {"name": "own", "stdlib": {}},
                {"name": "taken", "text": {"paths": ["gs://team/data/a", "gs://team/b"]}},
            ]
        },
        "spec.data.sources[taken]: gs://team/b is not allowed in namespace TEAM; take a file of the image or of a "
        "volume, or an address "
        "below gs://team/data/ or https://data.example/ or hf://datasets/team/ or hf://team/base@",
    ),
    *(
        (
            {"spec__data__sources": [{"name": "taken", kind: {"paths": [path]}}]},
            f"spec.data.sources[taken]: {path} is not allowed in namespace TEAM",
        )
        for kind, path in (
            ("jsonl", "s3://team/data/a.jsonl"),
            ("parquet", "gs://team/data-2/a.parquet"),
            ("csv", "gs://team/data-2/a.csv"),
            ("tsv", "gs://team/data-2/a.tsv"),
            ("text", "gs://team/data/../b.txt"),
            ("text", "https://data.example.org/a.txt"),
            ("text", "hf://datasets/team-2/words/a.txt"),
        )
    ),
    (
        {"spec__data__sources": [{"name": "taken", "huggingFace": {"dataset": "other/words"}}]},
        "spec.data.sources[taken]: hf://datasets/other/words is not allowed in namespace TEAM",
    ),
    *(
        (
            {"spec__tokenizer": {kind: member | {"path": path}}},
            f"spec.tokenizer.{kind}.path: {path} is not allowed in namespace TEAM",
        )
        for kind, member, path in (
            ("tokenizerJson", {}, "hf://team/base/tokenizer.json"),
            ("tiktoken", {"encoding": "gpt2"}, "https://other.example/gpt2"),
            ("sentencePiece", {}, "s3://team/t.model"),
        )
    ),
]


@pytest.mark.parametrize(
    ("change", "sentence"), REFUSED, ids=lambda value: next(iter(value)) if isinstance(value, dict) else ""
)
def test_a_run_beyond_the_limits_is_rejected_with_the_field_and_the_fix(
    limited: Limited, change: dict[str, Any], sentence: str
) -> None:
    assert sentence.replace("TEAM", limited.team) in limited.apply(limited.team, **(FITTING | change))


def test_as_many_files_as_the_schema_allows_are_checked(limited: Limited) -> None:
    """As many sources and paths as the schema allows: the API server limits the cost of a policy, and rejects a
    document that exceeds it."""
    paths = [[f"gs://team/data/{source}/{file}" for file in range(256)] for source in range(64)]
    assert limited.apply(limited.team, **(FITTING | {"spec__data__sources": _named(paths)})) == ""
    paths[-1][-1] = "gs://other/last"
    assert "spec.data.sources[s63]: gs://other/last is not allowed" in limited.apply(
        limited.team, **(FITTING | {"spec__data__sources": _named(paths)})
    )


def _named(paths: list[list[str]]) -> list[dict[str, Any]]:
    return [{"name": f"s{number}", "jsonl": {"paths": files}} for number, files in enumerate(paths)]


def test_an_empty_list_allows_no_value(limited: Limited) -> None:
    answer = limited.apply(limited.others, spec__image="registry.example/halcyon/trainer:1")
    assert (
        f"is not allowed in namespace {limited.others}; leave it out for the trainer that belongs to the operator"
        in answer
    )
    assert limited.apply(limited.others) == ""


def test_a_run_can_be_suspended_after_the_limits_became_tighter(limited: Limited) -> None:
    assert limited.apply(limited.team, dry_run=False, **FITTING) == ""
    assert limited.apply(limited.team, dry_run=False, **(ON_S3 | {"metadata__name": "on-s3"})) == ""
    tighter = LIMITS | {
        "roots": ["gs://nowhere/"],
        "serviceAccounts": ["nobody"],
        "images": [],
        "endpoints": [],
        "sources": [],
    }
    limited.apply_objects(limited.release_with(tighter))
    until(
        lambda: (
            "serviceAccountName: trainer is not allowed"
            in limited.apply(limited.team, **(FITTING | {"metadata__name": "new"}))
        ),
        timeout_seconds=30,
        failure=lambda: limited.apply(limited.team, **(FITTING | {"metadata__name": "new"})),
    )
    assert limited.apply(limited.team, **(FITTING | {"spec__suspend": True})) == ""
    assert limited.apply(limited.team, **(ON_S3 | {"metadata__name": "on-s3", "spec__suspend": True})) == ""
    assert "serviceAccountName: other is not allowed" in limited.apply(
        limited.team, **(FITTING | {"spec__scheduling": {"serviceAccountName": "other"}})
    )


def test_limits_that_are_deleted_and_applied_again_are_in_force(limited: Limited) -> None:
    """As after `helm uninstall` and `helm install`: an API server does not load parameters of a custom kind a second
    time.
    """
    objects = limited.release_with(LIMITS)
    limited.delete(objects)
    other: dict[str, Any] = {"metadata__name": "other", "spec__image": "elsewhere.example/trainer:1"}
    until(
        lambda: limited.apply(limited.team, **other) == "",
        timeout_seconds=30,
        failure=lambda: limited.apply(limited.team, **other),
    )
    limited.apply_objects(objects)
    limited.in_force()
    assert limited.apply(limited.team, **(FITTING | {"metadata__name": "other"})) == ""
