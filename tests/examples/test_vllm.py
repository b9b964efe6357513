"""The example of vLLM exports the model of an example into the folder that vLLM serves, and its pod keeps to the
restricted profile.
"""

from __future__ import annotations

from typing import Any

import pytest
import typer
import yaml

from halcyon.commands.main import app
from tests.examples.documents import REPOSITORY, training_runs

OBJECTS = {
    found["kind"]: found for found in yaml.safe_load_all((REPOSITORY / "examples" / "vllm" / "serve.yaml").read_text())
}
TEMPLATE: dict[str, Any] = OBJECTS["Deployment"]["spec"]["template"]
POD: dict[str, Any] = TEMPLATE["spec"]
(EXPORT,), (VLLM,) = POD["initContainers"], POD["containers"]


def mounted(container: dict[str, Any], path: str) -> str:
    """The volume that a container has at a path."""
    return next(mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == path)


def test_vllm_serves_the_folder_of_the_export() -> None:
    command: Any = typer.main.get_command(app)
    names = list(EXPORT["args"])
    while hasattr(command, "commands"):
        command = command.commands[names.pop(0)]
    given = command.make_context(command.name, names).params
    assert given["checkpoint"] == training_runs()["examples/finetune-qwen3.yaml#0"]["spec"]["checkpoint"]["root"]
    assert VLLM["args"][0] == given["folder"]
    folder = given["folder"].rpartition("/")[0]
    assert mounted(EXPORT, folder) == mounted(VLLM, folder)


def test_names_and_ports_fit_together() -> None:
    service = OBJECTS["Service"]
    assert (
        service["spec"]["selector"]
        == OBJECTS["Deployment"]["spec"]["selector"]["matchLabels"]
        == TEMPLATE["metadata"]["labels"]
    )
    (port,) = VLLM["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    gpus = VLLM["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--tensor-parallel-size={gpus}" in VLLM["args"]
    assert {mount["name"] for one in (EXPORT, VLLM) for mount in one["volumeMounts"]} == {
        volume["name"] for volume in POD["volumes"]
    }


@pytest.mark.parametrize("container", [EXPORT, VLLM], ids=["export", "vllm"])
def test_the_pod_is_restricted(container: dict[str, Any]) -> None:
    assert POD["securityContext"]["runAsNonRoot"]
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"].get("runAsUser", POD["securityContext"]["runAsUser"]) > 0
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not POD["automountServiceAccountToken"]
