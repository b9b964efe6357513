"""The example of a server: its options exist, its parts fit together, and its pods keep to the restricted profile."""

from __future__ import annotations

from typing import Any

import typer
import yaml

from halcyon.cli.main import app
from halcyon.serving.metrics import NAMES
from tests.examples.documents import REPOSITORY, training_runs

FILES = sorted((REPOSITORY / "examples" / "chat").glob("*.yaml"))
OBJECTS = {found["kind"]: found for path in FILES for found in yaml.safe_load_all(path.read_text())}
POD: dict[str, Any] = OBJECTS["Deployment"]["spec"]["template"]
CONTAINER: dict[str, Any] = POD["spec"]["containers"][0]


def options() -> dict[str, Any]:
    """The options of the container, as the command reads them."""
    command = typer.main.get_command(app).commands["serve"]  # pyright: ignore[reportAttributeAccessIssue]
    name, *arguments = CONTAINER["args"]
    assert name == "serve"
    return command.make_context("serve", list(arguments)).params


def test_the_server_reads_the_root_of_the_example() -> None:
    run = training_runs()["examples/stdlib-llama.yaml#0"]["spec"]["checkpoint"]
    given = options()
    assert (given["place"], given["endpoint"]) == (run["root"], run["endpoint"])
    assert CONTAINER["envFrom"] == [{"secretRef": {"name": run["credentialsSecret"]["name"]}}]
    (mount,) = [mount for mount in CONTAINER["volumeMounts"] if mount["name"] == "keys"]
    assert str(given["api_key_file"]).startswith(f"{mount['mountPath']}/")
    assert given["follow"]


def test_names_and_ports_fit_together() -> None:
    labels = POD["metadata"]["labels"]
    service, monitor, scaler = (OBJECTS[kind] for kind in ("Service", "PodMonitor", "HorizontalPodAutoscaler"))
    assert service["spec"]["selector"] == OBJECTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (port,) = CONTAINER["ports"]
    assert port["containerPort"] == options()["port"]
    assert port["name"] == service["spec"]["ports"][0]["targetPort"] == monitor["spec"]["podMetricsEndpoints"][0]["port"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == OBJECTS["Deployment"]["metadata"]["name"]
    assert scaler["spec"]["metrics"][0]["pods"]["metric"]["name"] in [name for name, _, _ in NAMES]
    assert {CONTAINER[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} == {"/ready", "/health"}


def test_the_pod_lives_longer_than_its_drain() -> None:
    sleep = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["spec"]["terminationGracePeriodSeconds"] >= sleep + options()["drain_seconds"] + 5


def test_the_pod_is_restricted() -> None:
    pod, container = POD["spec"]["securityContext"], CONTAINER["securityContext"]
    assert pod["runAsNonRoot"]
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not container["allowPrivilegeEscalation"]
    assert container["readOnlyRootFilesystem"]
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert not POD["spec"]["automountServiceAccountToken"]
