"""The chain of examples/chat and its server: their options exist, their parts fit together, and pods keep to the
restricted profile.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from halcyon.commands.chat_data import NAMES as DATA_NAMES
from halcyon.commands.dial import Choices, dial, document
from halcyon.commands.main import app
from halcyon.serving.metrics import NAMES
from halcyon_chat.chain import FILES as CHAT_FILES
from halcyon_chat.chain import in_order
from halcyon_chat.local import bucket_of
from halcyon_chat.records import read_chain
from tests.examples.documents import REPOSITORY, training_runs

FOLDER = REPOSITORY / "examples" / "chat"
OBJECTS = {
    found["kind"]: found for path in sorted(FOLDER.glob("*.yaml")) for found in yaml.safe_load_all(path.read_text())
}
KUSTOMIZATION: dict[str, Any] = OBJECTS["Kustomization"]
CHAIN = in_order(read_chain(FOLDER))
TRAINED = [run["spec"] for run in CHAIN if run["spec"].get("task", "train") == "train"]
POD: dict[str, Any] = OBJECTS["Deployment"]["spec"]["template"]
CONTAINER: dict[str, Any] = POD["spec"]["containers"][0]
JOB: dict[str, Any] = OBJECTS["Job"]["spec"]["template"]


def options(arguments: list[str] = CONTAINER["args"]) -> dict[str, Any]:
    """The options of a container, as the command reads them."""
    command: Any = typer.main.get_command(app)
    names = list(arguments)
    while hasattr(command, "commands"):
        command = command.commands[names.pop(0)]
    return command.make_context(command.name, names).params


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
    assert (
        port["name"] == service["spec"]["ports"][0]["targetPort"] == monitor["spec"]["podMetricsEndpoints"][0]["port"]
    )
    assert scaler["spec"]["scaleTargetRef"]["name"] == OBJECTS["Deployment"]["metadata"]["name"]
    assert scaler["spec"]["metrics"][0]["pods"]["metric"]["name"] in [name for name, _, _ in NAMES]
    assert {CONTAINER[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        "/ready",
        "/health",
    }


def test_the_pod_lives_longer_than_its_drain() -> None:
    sleep = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["spec"]["terminationGracePeriodSeconds"] >= sleep + options()["drain_seconds"] + 5


@pytest.mark.parametrize("pod", [POD, JOB], ids=["Deployment", "Job"])
def test_pods_are_restricted(pod: dict[str, Any]) -> None:
    security, container = pod["spec"]["securityContext"], pod["spec"]["containers"][0]["securityContext"]
    assert security["runAsNonRoot"]
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not container["allowPrivilegeEscalation"]
    assert container["readOnlyRootFilesystem"]
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert not pod["spec"]["automountServiceAccountToken"]


def test_the_kustomization_has_the_whole_chain() -> None:
    listed = [found for name in KUSTOMIZATION["resources"] for found in yaml.safe_load_all((FOLDER / name).read_text())]
    runs = [found for found in listed if found["kind"] == "TrainingRun"]
    assert [run["metadata"]["name"] for run in runs] == [run["metadata"]["name"] for run in CHAIN]
    assert {found["metadata"]["namespace"] for found in listed} == {KUSTOMIZATION["namespace"]}
    assert {"Job", "Deployment", "Service"} <= {found["kind"] for found in listed}


def test_the_server_of_the_chain_reads_the_last_trained_model() -> None:
    (patch,) = KUSTOMIZATION["patches"]
    assert patch["target"] == {"kind": "Deployment", "name": OBJECTS["Deployment"]["metadata"]["name"]}
    (change,) = yaml.safe_load(patch["patch"])
    place = Path(change["path"])
    assert place.parent == Path("/spec/template/spec/containers/0/args")
    assert CONTAINER["args"][int(place.name)] == options()["place"]
    assert change["value"] == TRAINED[-1]["checkpoint"]["root"]


def test_the_job_writes_the_files_that_the_runs_read() -> None:
    (container,) = JOB["spec"]["containers"]
    given = options(container["args"])
    read = {
        path
        for spec in TRAINED
        for source in spec["data"]["sources"]
        for path in source.get("jsonl", {}).get("paths", ())
    }
    assert given["output"] == f"{bucket_of(CHAIN[0])}/{CHAT_FILES}"
    assert len(read) >= 3
    assert {path.rpartition("/")[0] for path in read} == {given["output"]}
    assert {path.rpartition("/")[2] for path in read} <= set(DATA_NAMES)
    assert given["endpoint"] == TRAINED[0]["checkpoint"]["endpoint"]
    assert container["envFrom"] == [{"secretRef": {"name": TRAINED[0]["checkpoint"]["credentialsSecret"]["name"]}}]


def test_the_pretraining_has_the_numbers_of_the_dial() -> None:
    spec = TRAINED[0]
    given = Choices(
        depth=3, head_dim=64, sequence_length=256, vocabulary=1024, batch_tokens=4096, steps=spec["trainer"]["steps"]
    )
    expected = document(dial(given))["spec"]
    del expected["optimizer"]["muonAdamw"]["iterationType"]  # bfloat16, which is slow on processors
    assert spec["optimizer"] == expected["optimizer"]
    assert spec["trainer"]["batchSize"] == expected["trainer"]["batchSize"]
    model = expected["model"]
    assert {**model, **spec["model"]} == model
    command = "--depth 3 --head-dim 64 --sequence-length 256 --vocabulary 1024 --batch-tokens 4096 --steps"
    assert f"{command} {given.steps}`" in (FOLDER / "pretrain.yaml").read_text()


def test_runs_of_the_chain_have_one_model_and_one_text() -> None:
    assert all(run["spec"]["model"] == CHAIN[0]["spec"]["model"] for run in CHAIN)
    assert all(run["spec"]["tokenizer"] == CHAIN[0]["spec"]["tokenizer"] for run in CHAIN)
    built, pretrained, *_, evaluated = (run["spec"]["data"] for run in CHAIN)
    assert built == pretrained == evaluated
