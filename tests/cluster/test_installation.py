"""The life of an installation, from the first install to an upgrade, by the commands of README.md and
docs/guides/install.md.

It uses its own new cluster, beside other clusters, and deletes it at the end without a trace. The commands are adapted
only as far as a new cluster without a registry needs it: the images are on the node, and a package of this chart
replaces that of a release. The trainer runs a script. The tests depend on their order.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_demo.documents import REPOSITORY
from halcyon_demo.install import Namespaces
from halcyon_devcluster import DevclusterError, Faults, open_cluster
from halcyon_devcluster.audit import AuditLog
from halcyon_devcluster.commands import run
from halcyon_devcluster.engine import Backend
from halcyon_devcluster.images import Buildable, build
from halcyon_devcluster.programs import FLUX_HELM
from halcyon_devcluster.waiting import until
from tests.cluster.argocd import argocd, repository
from tests.cluster.conftest import PROGRESS, DevCluster
from tests.cluster.documented import GUIDE, README, Command, commands, of_package
from tests.cluster.flux import flux
from tests.cluster.footprint import Footprint, footprint
from tests.cluster.operators import NOWHERE
from tests.cluster.registry import registry
from tests.cluster.scripted import INTERVAL_SECONDS, Operator, Runs, build_scripted_trainer
from tests.examples.documents import objects_of
from tests.suite import promises
from tests.suite.limits import limit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "installation"
CHART = REPOSITORY / "charts" / "halcyon"
DEFINITION = "trainingruns.halcyon.dev"
NOTHING_LEFT = ["kubectl", "delete", "crd", "--selector", "app.kubernetes.io/name=halcyon"]
OPERATORS = "--selector=app.kubernetes.io/component=operator"
NOT_OURS = "exists and cannot be imported into the current release"


@dataclass(frozen=True)
class Site:
    """A new cluster and what is installed in it."""

    devcluster: DevCluster
    package: Path
    """The chart as it would be released, with the images on the node."""
    other_version: Path
    """The same of another version of the chart, to upgrade from."""
    before: Footprint
    """The machine before the cluster was created."""

    def run(self, command: Command, *more: str) -> str:
        """Run a command from a page, with further arguments."""
        program, *words = of_package(command, self.package)
        assert program in ("helm", "kubectl"), command
        cluster = self.devcluster.cluster
        homes = {f"HELM_{what}_HOME": str(cluster.paths.state / "helm" / what) for what in ("CACHE", "CONFIG", "DATA")}
        # A watch never ends.
        words = [word for word in words if word != "--watch"]
        if (program, words[0]) == ("helm", "install"):
            # The scripted runs name a store that does not exist.
            more = (*more, "--set", f"objectStore.s3.endpoints={{{Namespaces().store_endpoint},{NOWHERE}}}")
        return run(
            [cluster.paths.tools / program, *words, *more, "--kubeconfig", cluster.kubeconfig],
            cwd=REPOSITORY,
            environ=homes,
        )

    def exists(self, kind: str, name: str, namespace: str = "default") -> bool:
        return bool(
            self.devcluster.kubectl("get", kind, name, "--namespace", namespace, "--ignore-not-found", "--output=name")
        )

    def store_is_there(self) -> None:
        """Make the examples' store run the image on the node."""
        kubectl, cluster = self.devcluster.kubectl, self.devcluster.cluster
        image = self.devcluster.load(build(Buildable.VERSITYGW, cache=cluster.paths.cache, progress=PROGRESS))
        kubectl("set", "image", "deployment/object-store", f"versitygw={image}", "--namespace=training")
        kubectl("rollout", "status", "deployment/object-store", "--namespace=training", f"--timeout={limit(120)}s")

    def runs(self, namespace: str) -> Runs:
        if not self.exists("namespace", namespace):
            self.devcluster.kubectl("create", "namespace", namespace)
        return Runs(self.devcluster, namespace)


def other_version(folder: Path) -> Path:
    """A copy of the chart with another version, whose definition of a run lacks a field."""
    chart = shutil.copytree(CHART, folder / CHART.name)
    about, definition = chart / "Chart.yaml", chart / "files" / "halcyon.dev_trainingruns.yaml"
    about.write_text(re.sub("^version: .*", "version: 0.0.1", about.read_text(), flags=re.MULTILINE))
    document = yaml.safe_load(definition.read_text())
    del document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"][
        "ttlSecondsAfterFinished"
    ]
    definition.write_text(yaml.safe_dump(document, sort_keys=False))
    return chart


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    cluster = open_cluster(NAME, progress=PROGRESS)
    cluster.down(purge=True)
    before = footprint(NAME) if cluster.backend is Backend.NATIVE else {}
    cluster.up()
    try:
        devcluster = DevCluster(cluster, Faults(cluster), AuditLog(cluster.paths.audit_log))
        cache = cluster.paths.cache
        trainer = build_scripted_trainer(devcluster, build(Buildable.BASE, cache=cache, progress=PROGRESS))

        operator = devcluster.load(build(Buildable.OPERATOR, cache=cache, progress=PROGRESS))

        def package(chart: Path) -> Path:
            folder = tmp_path_factory.mktemp("package")
            images = ["--operator", operator, "--trainer", trainer, "--helm", cluster.paths.tools / "helm"]
            run(
                [
                    sys.executable,
                    REPOSITORY / "charts" / "package.py",
                    *images,
                    "--chart",
                    chart,
                    "--destination",
                    folder,
                ]
            )
            (made,) = folder.iterdir()
            return made

        yield Site(devcluster, package(CHART), package(other_version(tmp_path_factory.mktemp("other"))), before)
    finally:
        cluster.down(purge=True)


def identities(runs: Runs, name: str) -> dict[str, Any]:
    """What must not change in a run while operators start and stop: its process groups, pods and JobSet."""
    pods = runs.objects("pod", name)
    (jobset,) = runs.objects("jobset", name)
    status = runs.status(name)
    return {
        "pods": {pod["metadata"]["uid"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods},
        "jobset": (jobset["metadata"]["uid"], jobset["metadata"]["generation"]),
        "attempt": status["attempt"],
        "groups": [(entry["attempt"], entry["restart"]) for entry in status["history"]],
        "attempts reported": runs.events(name).count("AttemptStarted"),
    }


def trains_on_unchanged(runs: Runs, name: str, before: dict[str, Any]) -> None:
    """Wait until an operator reports new steps of a run, in the same process group as before."""
    step = runs.status(name)["progress"]["step"]
    last = before["groups"][-1]
    runs.training(name, *last, step=step + 10)
    assert identities(runs, name) == before


def trainer_step(runs: Runs, name: str) -> int:
    """The step that the run's first process reports. It does not depend on the status."""
    answer = runs.api.text(f"/api/v1/namespaces/{runs.namespace}/pods/{runs.pods(name)[0]}:9400/proxy/status")
    return int(yaml.safe_load(answer)["progress"]["step"])


def gone(runs: Runs, name: str) -> None:
    """Wait until all objects of a run are deleted."""
    kinds = "jobset,job,pod,configmap"
    until(
        lambda: not runs.names(kinds, name),
        timeout_seconds=60,
        interval_seconds=INTERVAL_SECONDS,
        failure=lambda: f"still there: {runs.names(kinds, name)}",
    )


def uninstall_all(site: Site) -> None:
    """Uninstall all releases that an earlier test may have left."""
    for namespace in ("training", "team-b", "halcyon-system"):
        site.run(["helm", "uninstall", "halcyon", "--namespace", namespace, "--wait", "--ignore-not-found"])


@promises.ONE_NAMESPACE
def test_an_install_for_one_namespace_needs_only_the_store(site: Site) -> None:
    install, apply, look = commands(README, "On a cluster")[:3]
    notes = site.run(install)
    assert "serves the TrainingRuns of training, and of no other namespace" in notes
    site.run(apply)
    site.store_is_there()
    site.runs("elsewhere").apply("unseen")
    runs = site.runs("training")
    runs.training("stdlib-llama")
    assert "stdlib-llama" in site.run(look)
    site.run(["helm", "test", "halcyon", "--namespace", "training"])
    unseen = site.runs("elsewhere")
    assert (unseen.status("unseen"), unseen.names("jobset", "unseen")) == ({"observedGeneration": -1}, [])


@promises.UNINSTALL
def test_uninstalling_leaves_what_the_guide_says(site: Site) -> None:
    runs = site.runs("training")
    for name in ("lasting", "first", "second"):
        runs.apply(name)
    for name in ("lasting", "first", "second"):
        runs.training(name)
    before = identities(runs, "lasting")
    manifest = site.run(["helm", "get", "manifest", "halcyon", "--namespace", "training"])
    (uninstall,) = commands(GUIDE, "Uninstall")
    assert uninstall == commands(README, "On a cluster")[3]
    site.run(uninstall)
    left = site.devcluster.kubectl("get", "--filename=-", "--ignore-not-found", "--output=name", stdin=manifest).split()
    assert f"customresourcedefinition.apiextensions.k8s.io/{DEFINITION}" in left
    assert {name.partition("/")[0] for name in left} == {"customresourcedefinition.apiextensions.k8s.io"}
    assert site.exists("lease", "halcyon", "training")
    step = trainer_step(runs, "lasting")
    until(
        lambda: trainer_step(runs, "lasting") >= step + 10,
        timeout_seconds=60,
        interval_seconds=INTERVAL_SECONDS,
        failure=lambda: "the run does not train on",
    )
    # A run can be deleted while no operator runs.
    runs.kubectl("delete", "trainingrun", "first", f"--timeout={limit(60)}s")
    runs.kubectl("delete", "trainingrun", "second", f"--timeout={limit(60)}s", "--cascade=foreground")
    for name in ("first", "second"):
        gone(runs, name)
    assert identities(runs, "lasting") == before


def test_reinstalling_continues_with_the_existing_runs(site: Site) -> None:
    runs = site.runs("training")
    before = identities(runs, "lasting")
    site.run(commands(README, "On a cluster")[0])
    trains_on_unchanged(runs, "lasting", before)
    # It has ended meanwhile, or ends now.
    ended = runs.in_phase("stdlib-llama", "Succeeded")
    assert (ended["attempt"], ended["progress"]["step"], ended["restarts"]["total"]) == (1, 250, 0)


@pytest.mark.variant
def test_several_releases_share_the_crds_and_no_namespace(site: Site) -> None:
    first, second = site.runs("training"), site.runs("team-b")
    before = identities(first, "lasting")
    (install,) = commands(GUIDE, "Several in one cluster")
    with pytest.raises(DevclusterError, match=NOT_OURS):
        site.run([word for word in install if word not in ("--set", "crds.enabled=false")])
    assert "crds.enabled is false: the definitions come from elsewhere" in site.run(install)
    second.apply("theirs")
    second.training("theirs")
    served = {place: Operator(site.devcluster, place).metrics() for place in ("training", "team-b")}
    assert ('run="lasting"' in served["training"], 'run="theirs"' in served["training"]) == (True, False)
    assert ('run="lasting"' in served["team-b"], 'run="theirs"' in served["team-b"]) == (False, True)
    site.run(["helm", "uninstall", "halcyon", "--namespace", "team-b", "--wait"])
    assert site.exists("crd", DEFINITION)
    trains_on_unchanged(first, "lasting", before)


@pytest.mark.variant
def test_two_releases_that_serve_one_namespace_do_nothing_twice(site: Site) -> None:
    install, *_ = commands(GUIDE, "For the whole cluster")
    runs = site.runs("training")
    before = identities(runs, "lasting")
    assert "serves the TrainingRuns of the whole cluster" in site.run(install, "--set", "crds.enabled=false")
    site.runs("elsewhere").training("unseen")
    runs.apply("shared")
    runs.training("shared", step=20)
    found = identities(runs, "shared")
    assert (found["attempt"], found["groups"], found["attempts reported"]) == (1, [(1, 0)], 1)
    trains_on_unchanged(runs, "lasting", before)


def test_another_release_takes_over_the_crds_and_the_runs(site: Site) -> None:
    runs = site.runs("training")
    before = identities(runs, "lasting")
    uninstall_all(site)
    install, *_ = commands(GUIDE, "For the whole cluster")
    with pytest.raises(DevclusterError, match=NOT_OURS):
        site.run(install)
    site.run(install, "--take-ownership")
    trains_on_unchanged(runs, "lasting", before)
    site.runs("elsewhere").training("unseen")


@pytest.mark.variant
def test_one_more_value_installs_for_the_whole_cluster(site: Site) -> None:
    uninstall_all(site)
    assert f"`{' '.join(NOTHING_LEFT)}`" in GUIDE.read_text()
    site.run(NOTHING_LEFT)
    for namespace, name in (("training", "lasting"), ("elsewhere", "unseen"), ("team-b", "theirs")):
        gone(site.runs(namespace), name)
    install, apply, look = commands(GUIDE, "For the whole cluster")
    site.run(install)
    site.run(apply)
    site.runs("training").training("stdlib-llama")
    assert "stdlib-llama" in site.run(look)
    site.run(["helm", "test", "halcyon", "--namespace", "halcyon-system"])
    site.run(["helm", "uninstall", "halcyon", "--namespace", "halcyon-system", "--wait"])
    site.run(NOTHING_LEFT)


@pytest.mark.variant
def test_flux_installs_the_chart_and_leaves_the_runs(site: Site, tmp_path: Path) -> None:
    uninstall_all(site)
    site.run(NOTHING_LEFT)
    runs, kubectl = site.runs("training"), site.devcluster.kubectl
    shown = objects_of("docs/guides/install.md")
    source, release = shown["OCIRepository"], shown["HelmRelease"]
    _, repository = source["spec"]["url"].removeprefix("oci://").split("/OWNER/")
    release["spec"]["values"]["objectStore"] = {"s3": {"endpoints": [NOWHERE]}}
    with (
        flux(kubectl, tmp_path, FLUX_HELM),
        registry(site.package, repository, source["spec"]["ref"]["tag"]) as address,
    ):
        source["spec"] |= {"url": f"oci://{address}/{repository}", "insecure": True}
        kubectl.apply([source, release])
        where = ["--namespace", "flux-system", f"--timeout={limit(180)}s"]
        try:
            kubectl("wait", "--for=condition=Ready", "helmrelease/halcyon", *where)
            runs.apply("fluxed")
            runs.training("fluxed")
            before = identities(runs, "fluxed")
        finally:
            kubectl("delete", "helmrelease,ocirepository", "halcyon", *where)
    assert not site.exists("deployment", "halcyon", "halcyon-system")
    assert site.exists("crd", DEFINITION)
    assert identities(runs, "fluxed") == before


@pytest.mark.variant
def test_argo_cd_installs_the_chart_and_leaves_the_runs(site: Site, tmp_path: Path) -> None:
    uninstall_all(site)
    site.run(NOTHING_LEFT)
    runs, kubectl = site.runs("training"), site.devcluster.kubectl
    application = objects_of("docs/guides/install.md")["Application"]
    source = application["spec"]["source"]
    _, folder = source["repoURL"].split("/OWNER/")
    source["helm"]["valuesObject"]["objectStore"] = {"s3": {"endpoints": [NOWHERE]}}
    keys = site.devcluster.cluster.paths.pki
    certificate = keys / "apiserver.crt", keys / "apiserver.key"
    with (
        argocd(kubectl, tmp_path),
        registry(site.package, f"{folder}/{source['chart']}", source["targetRevision"], certificate) as address,
    ):
        source["repoURL"] = f"{address}/{folder}"
        kubectl.apply([repository(source["repoURL"]), application])
        where = ["application/halcyon", "--namespace", "argocd", f"--timeout={limit(180)}s"]
        try:
            kubectl("wait", "--for=jsonpath={.status.sync.status}=Synced", *where)
            kubectl("wait", "--for=jsonpath={.status.health.status}=Healthy", *where)
            runs.apply("argoed")
            runs.training("argoed")
            before = identities(runs, "argoed")
        finally:
            kubectl("delete", *where)
    assert not site.exists("deployment", "halcyon", "halcyon-system")
    assert site.exists("crd", DEFINITION)
    assert identities(runs, "argoed") == before


def replaced(runs: Runs, name: str) -> bool:
    """Whether the API server accepts its own stored object again. False only if the object has changed meanwhile."""
    stored = runs.kubectl("get", "trainingrun", name, "--output=yaml")
    try:
        runs.kubectl("replace", "--dry-run=server", "--validate=strict", "--filename=-", stdin=stored)
    except DevclusterError as refused:
        if "the object has been modified" not in str(refused):
            raise
        return False
    return True


@promises.UPGRADES
def test_an_upgrade_disturbs_no_run(site: Site) -> None:
    """From another version of the chart. The run sets fields to values other than their defaults."""
    uninstall_all(site)
    site.run(NOTHING_LEFT)
    runs, kubectl = site.runs("training"), site.devcluster.kubectl
    values = ["--set", "watchNamespaces={training}", "--set", "log.format=text"]
    site.run(
        [
            "helm",
            "install",
            "halcyon",
            str(site.other_version),
            "--namespace",
            "training",
            "--create-namespace",
            "--wait",
            *values,
        ]
    )
    trainer = {"steps": 100_000, "batchSize": 8, "sequenceLength": 64, "evaluation": {"everySteps": 50}}
    root = {
        "root": "s3://nowhere/upgraded",
        "endpoint": "http://object-store.invalid:7070",
        "keep": 5,
        "save": {"everySteps": 25},
    }
    optimizer = {"learningRate": 0.002, "schedule": {"cosine": {"warmupSteps": 7}}, "adamw": {}}
    runs.apply("upgraded", trainer=trainer, checkpoint=root, optimizer=optimizer)
    runs.training("upgraded", step=20)
    before = identities(runs, "upgraded")

    def schemas(*command: str) -> list[dict[str, Any]]:
        return [version["schema"] for version in kubectl.json(*command)["spec"]["versions"]]

    # As the API server would store it.
    present = f"--filename={REPOSITORY}/crds/halcyon.dev_trainingruns.yaml"
    wanted = schemas("apply", "--server-side", "--force-conflicts", "--dry-run=server", present)
    assert schemas("get", "crd", DEFINITION) != wanted, "the definitions must differ"
    operators = kubectl("get", "pods", "--namespace=training", OPERATORS, "--output=name")
    (upgrade,) = commands(GUIDE, "Upgrade")
    site.run(upgrade)
    assert schemas("get", "crd", DEFINITION) == wanted
    assert kubectl("get", "pods", "--namespace=training", OPERATORS, "--output=name") != operators
    trains_on_unchanged(runs, "upgraded", before)
    # The stored run is valid by the new schema, and the new operator does what its spec says.
    until(lambda: replaced(runs, "upgraded"), timeout_seconds=60, failure=lambda: "the run changes all the time")
    runs.patch("upgraded", suspend=True)
    saved = runs.in_phase("upgraded", "Suspended")["checkpoint"]["step"]
    runs.patch("upgraded", suspend=False)
    status = runs.training("upgraded", attempt=2)
    assert status["history"][1]["fromStep"] == saved > 0
    (given,) = yaml.safe_load_all(
        kubectl.json("get", "configmap", "upgraded-2", "--namespace", "training")["data"]["run.yaml"]
    )
    assert (
        given["spec"]["optimizer"]["learningRate"],
        given["spec"]["optimizer"]["schedule"]["cosine"]["warmupSteps"],
    ) == (0.002, 7)


@promises.NOTHING_RUNNING
def test_deleting_the_cluster_leaves_nothing_on_the_machine(site: Site) -> None:
    """Also pods, their mounts and their network."""
    cluster = site.devcluster.cluster
    if cluster.backend is not Backend.NATIVE:
        pytest.skip("what a kind cluster leaves behind is decided by kind and Docker")
    assert footprint(NAME) != site.before
    cluster.down()
    assert footprint(NAME) == site.before
    assert not cluster.status().components
