"""What a person who installs the chart reads: the pages agree with the chart, NOTES fit the values, contradictions are
rejected.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_devcluster.commands import run
from halcyon_devcluster.errors import DevclusterError
from tests.chart.conftest import CHART, IMAGES, Render
from tests.cluster.documented import CHART as RELEASED
from tests.cluster.documented import GUIDE, README, commands, of_package

Notes = Callable[..., str]


def test_the_readme_shows_the_commands_of_the_guide() -> None:
    assert commands(README, "On a cluster") == [*commands(GUIDE, "For one namespace"), *commands(GUIDE, "Uninstall")]


def test_the_pages_name_the_version_of_the_chart() -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    address, *named = RELEASED
    assert named == ["--version", version]
    for page in (README, GUIDE, GUIDE.with_name("upgrades.md")):
        called = re.findall(r"(oci:\S+) --version ([\w.-]+)", page.read_text())
        assert set(called) == {(address, version)}, page.name
    assert f"halcyon-{version}.tgz" in GUIDE.read_text()
    assert of_package(["helm", "install", "x", *RELEASED, "--wait"], Path("a.tgz")) == [
        "helm",
        "install",
        "x",
        "a.tgz",
        "--wait",
    ]


def test_a_heading_without_commands_is_an_error() -> None:
    for heading in ("No such heading", "What to rely on"):
        with pytest.raises(LookupError, match=heading):
            commands(README, heading)


@pytest.fixture
def notes(helm: Path, tmp_path: Path) -> Notes:
    """A function that returns the NOTES of `helm install`.

    Keyword arguments are values in addition to the image names.
    """
    private = {name: str(tmp_path) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")} | {
        "KUBECONFIG": "/dev/null"
    }

    def notes_of(namespace: str = "training", **values: Any) -> str:
        command = [helm, "install", "halcyon", CHART, "--namespace", namespace, "--dry-run=client", "--values", "-"]
        return run(command, stdin=yaml.safe_dump(IMAGES | values), environ=private).partition("NOTES:\n")[2]

    return notes_of


@pytest.mark.slow  # the first use builds Helm
def test_notes_of_both_profiles(notes: Notes) -> None:
    own = notes()
    assert "serves the TrainingRuns of training, and of no other namespace." in own
    assert (
        "kubectl apply --namespace training --filename run.yaml\n  kubectl get trainingruns --namespace training "
        "--watch" in own
    )
    assert "helm test halcyon --namespace training" in own
    assert "crds." not in own
    some = notes(watchNamespaces=["a", "b"])
    assert "serves the TrainingRuns of a, b, and of no other namespace." in some
    assert "kubectl get trainingruns --all-namespaces --watch" in some
    everywhere = notes("halcyon-system", clusterWide=True)
    assert "serves the TrainingRuns of the whole cluster." in everywhere
    assert (
        "kubectl apply --namespace NAMESPACE --filename run.yaml\n  kubectl get trainingruns --all-namespaces --watch"
        in everywhere
    )


@pytest.mark.slow
def test_notes_explain_the_effects_of_the_values(notes: Notes) -> None:
    assert "the definitions come from elsewhere" in notes(crds={"enabled": False})
    assert "uninstalling this release deletes every TrainingRun" in notes(crds={"keep": False})
    # Without its own definitions, the release does not delete them.
    assert "deletes every TrainingRun" not in notes(crds={"enabled": False, "keep": False})
    assert "helm test" not in notes(metrics={"service": {"enabled": False}})
    assert "runs may keep checkpoints in AWS and Google Cloud, and in no other S3 store" in notes()
    assert "no other S3 store" not in notes(objectStore={"s3": {"endpoints": ["http://store:7070"]}})
    cut_off = "the operator reaches no metadata server"
    assert cut_off in notes(networkPolicy={"enabled": True})
    assert cut_off not in notes(networkPolicy={"enabled": True, "metadataServer": {"enabled": True}})
    assert cut_off not in notes()


LIMITS: dict[str, Any] = {"default": {"images": []}, "namespaces": {"team-a": {"imageDigests": "required"}}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"limits": LIMITS}, "limits.enabled is false while limits are set, so nothing would enforce them"),
        (
            {"limits": LIMITS | {"enabled": True}, "watchNamespaces": ["team-b"]},
            "limits.namespaces: this release does not serve team-a, only team-b: correct the name, or add it to "
            "watchNamespaces",
        ),
        (
            {"serviceAccount": {"create": False, "annotations": {"a": "b"}}},
            "serviceAccount.annotations are for an account that this release makes",
        ),
    ],
)
def test_values_that_contradict_one_another_are_refused(render: Render, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DevclusterError, match=re.escape(sentence)):
        render(**values)


@pytest.mark.slow
def test_limits_of_any_namespace_are_valid_for_a_cluster_wide_operator(render: Render) -> None:
    assert render(clusterWide=True, limits=LIMITS | {"enabled": True})
