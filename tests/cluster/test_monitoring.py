"""The expressions of the dashboards and the alerts, evaluated by a real Prometheus that scrapes a real operator and
real trainers.

tests/cluster/test_whole_path.py compares the scraped pages with the status of a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from halcyon_dashboards.queries import DASHBOARDS, OPERATOR_DOWN, OPERATOR_JOB, RECORDED, RUN_STALLED, TRAINER_JOB
from halcyon_dashboards.rules import ALERTS
from halcyon_demo.documents import REPOSITORY, variant
from halcyon_demo.install import RELEASE, helm
from halcyon_demo.training import Training
from halcyon_devcluster.images import Buildable, build
from halcyon_devcluster.kueue import kueue
from halcyon_devcluster.waiting import until
from tests.cluster.conftest import PROGRESS, DevCluster
from tests.cluster.prometheus import Prometheus, running
from tests.cluster.test_queues import queue_objects
from tests.cluster.whole_path import WholePath

# Kueue is installed and removed, and its webhooks check the Jobs of all other tests.
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.alone,
    pytest.mark.variant,
    pytest.mark.timeout(1200),
    pytest.mark.xdist_group("path"),
]

RUN = "watched"
QUEUED = "patient"
ONLY_ON_ACCELERATORS = ("mfu", "planned tokens")
"""Panels without data here: a processor has no known peak, and its runs are not planned."""
MONITORING = {
    "image": {"repository": "r.example/operator"},
    "trainerImage": {"repository": "r.example/trainer"},
    "metrics": {kind: {"enabled": True} for kind in ("serviceMonitor", "podMonitor", "prometheusRule", "dashboards")},
}


def training_of(path: WholePath, document: dict[str, Any]) -> Training:
    return Training(path.devcluster.kubectl, path.devcluster.faults, path.watch.observations, path.place.runs, document)


def chart(path: WholePath) -> dict[str, list[dict[str, Any]]]:
    """The chart's objects with all monitoring enabled, by kind."""
    values = yaml.safe_dump(MONITORING | {"watchNamespaces": [path.place.runs]})
    where = ["--namespace", path.place.operator]
    text = helm(
        path.devcluster.cluster,
        "template",
        RELEASE,
        REPOSITORY / "charts" / "halcyon",
        *where,
        "--values",
        "-",
        stdin=values,
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for document in yaml.safe_load_all(text):
        if document:
            found.setdefault(document["kind"], []).append(document)
    return found


@pytest.fixture(scope="module")
def watched(path: WholePath) -> Iterator[Training]:
    """A run of two processes that trains until the tests end, with regular evaluations and saves."""
    document = variant(path.document, name=RUN, steps=1_000_000)
    document["spec"]["trainer"]["evaluation"] = {"everySteps": 20, "batches": 1}
    document["spec"]["checkpoint"]["save"] = {"everySteps": 0, "everySeconds": 20}
    document["spec"]["telemetry"] = {"statusIntervalSeconds": 1}
    training = training_of(path, document)
    training.apply()
    yield training
    training.delete()


@pytest.fixture(scope="module")
def prometheus(path: WholePath, devcluster: DevCluster, watched: Training) -> Iterator[Prometheus]:
    image = devcluster.load(build(Buildable.PROMETHEUS, cache=devcluster.cluster.paths.cache, progress=PROGRESS))
    made = chart(path)
    monitors = [*made["ServiceMonitor"], *made["PodMonitor"]]
    namespaces = [path.place.operator, path.place.runs]
    (rules,) = made["PrometheusRule"]
    with running(devcluster.cluster, image, path.place.operator, monitors, rules["spec"], namespaces) as prometheus:
        watched.wait_for_step(20)
        yield prometheus


@pytest.fixture(scope="module", autouse=True)
def no_failed_run_of_other_tests(path: WholePath) -> None:
    """Delete the runs that other tests have made fail, because they would raise alerts too."""
    for run in path.devcluster.kubectl.json("get", "trainingruns", "--namespace", path.place.runs)["items"]:
        if run.get("status", {}).get("phase") == "Failed":
            path.devcluster.kubectl("delete", "trainingrun", run["metadata"]["name"], "--namespace", path.place.runs)


@pytest.fixture(scope="module")
def expressions(path: WholePath) -> dict[str, str]:
    """Every expression of the dashboards, as Grafana would send it."""
    found = {}
    for board, queries in DASHBOARDS.items():
        for name, query in queries.items():
            if name in ONLY_ON_ACCELERATORS:
                continue
            values = {"$namespace": path.place.runs, "$run": RUN, "$__rate_interval": "30s"}
            expression = query.expr
            for variable, value in values.items():
                expression = expression.replace(variable, value)
            found[f"{board}: {name}"] = expression
    return found


def test_operator_and_trainers_are_scraped_by_the_charts_monitors(prometheus: Prometheus, path: WholePath) -> None:
    up = {"operator": f'up{{job="{OPERATOR_JOB}"}} == 1', "trainers": f'up{{job="{TRAINER_JOB}"}} == 1'}
    answers = prometheus.until_all_answer(up, 60)
    assert len(answers["operator"]) == 1
    assert {sample["metric"]["run"] for sample in answers["trainers"]} == {RUN}
    prometheus.until_all_answer({"both": f'count(up{{job="{TRAINER_JOB}"}} == 1) == 2'}, 60)
    (goodput,) = prometheus.until_all_answer({"goodput": f'halcyon_goodput_ratio{{run="{RUN}"}}'}, 60)["goodput"]
    assert goodput["metric"]["namespace"] == path.place.runs, "it must be the run's namespace, not the operator's"
    for sample in prometheus.ask("halcyon_trainer_info"):
        assert not [label for label in sample["metric"] if label.startswith("exported_")]


def test_every_rule_is_evaluated_and_a_healthy_run_raises_no_alarm(prometheus: Prometheus) -> None:
    recorded = prometheus.until_all_answer({name: name for name in RECORDED}, 240)
    assert recorded.keys() == RECORDED.keys()
    rules = prometheus.rules()
    assert {rule["name"] for rule in rules} == {*RECORDED, *(alert.name for alert in ALERTS)}
    for rule in rules:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule["name"]
        assert rule.get("state", "inactive") == "inactive", rule
    for alert in ALERTS:
        assert prometheus.ask(alert.expr) == [], alert.name


@pytest.fixture
def queued(path: WholePath) -> Iterator[None]:
    """A run in a queue of the real Kueue. It requests more than the whole quota, so it waits."""
    document = variant(path.document, name=QUEUED)
    document["spec"]["accelerator"]["hostResources"] = {"memory": "2Gi"}
    document["spec"]["scheduling"] = {"queue": {"name": "research"}}
    training = training_of(path, document)
    with kueue(path.devcluster.cluster, PROGRESS):
        path.devcluster.kubectl.apply(queue_objects(path.place.runs))
        training.apply()
        try:
            until(
                lambda: waits_for(path, QUEUED) == "WaitingForQuota",
                timeout_seconds=90,
                failure=lambda: waits_for(path, QUEUED),
            )
            yield
        finally:
            training.delete()


def waits_for(path: WholePath, name: str) -> str:
    """The reason of a run's Queued condition; "" if it has none."""
    status = path.devcluster.kubectl.json("get", "trainingrun", name, "--namespace", path.place.runs)["status"]
    return next((one["reason"] for one in status.get("conditions", []) if one["type"] == "Queued"), "")


def test_every_panel_has_data(
    prometheus: Prometheus,
    path: WholePath,
    watched: Training,
    queued: None,
    expressions: dict[str, str],
) -> None:
    minute = {"a minute of samples": f'halcyon_run_attempt{{run="{RUN}"}} offset 1m'}
    prometheus.until_all_answer(minute, 180)
    watched.wait_for_recovery(watched.evict(1))  # makes a restart mark
    answers = prometheus.until_all_answer(expressions, 300)
    assert answers.keys() == expressions.keys()
    (mark,) = answers["run: restart marks"]
    assert mark["metric"] == {"cause": "preempted"}
    (waits,) = answers["fleet: queued"]
    assert waits["metric"] == {"namespace": path.place.runs, "run": QUEUED}
    assert float(waits["value"][1]) > 0
    share = float(answers["run: data wait"][0]["value"][1])
    assert 0 <= share <= 1


def test_a_run_that_cannot_be_trained_raises_an_alarm(prometheus: Prometheus, path: WholePath) -> None:
    document = variant(path.document, name="hopeless")
    kubectl = path.devcluster.kubectl
    kubectl(
        "create", "configmap", "hopeless-1", "--namespace", path.place.runs
    )  # the name that its first attempt needs
    training = training_of(path, document)
    late = variant(path.document, name="late")
    late["spec"]["scheduling"] = {"nodeSelector": {"example.com/pool": "nowhere"}}
    waiting = training_of(path, late)
    training.apply()
    waiting.apply()
    try:
        (sample,) = prometheus.until_all_answer({"stalled": RUN_STALLED}, 60)["stalled"]
        assert sample["metric"] == {"namespace": path.place.runs, "run": "hopeless", "reason": "NameTaken"}
        prometheus.until_all_answer({"fires": 'ALERTS{alertname="HalcyonRunStalled",alertstate="firing"}'}, 180)
        (waits,) = prometheus.ask('ALERTS{alertname="HalcyonRunWaiting",run="late"}')
        assert waits["metric"]["alertstate"] == "pending"
    finally:
        training.delete()
        kubectl("delete", "configmap", "hopeless-1", "--namespace", path.place.runs)
        waiting.delete()


def test_an_operator_that_is_down_raises_an_alarm(prometheus: Prometheus, path: WholePath) -> None:
    path.operator.scale(0)
    try:
        prometheus.until_all_answer({"down": OPERATOR_DOWN}, 60)
    finally:
        path.operator.scale(1)
