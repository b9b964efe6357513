"""The example of agent-sandbox: its sandboxes are restricted, its rights are those that the command needs, and its
names fit together.
"""

from __future__ import annotations

from typing import Any

import typer
import yaml

from halcyon.commands.main import app
from halcyon.evals.sandbox.cluster import RIGHTS
from tests.examples.documents import REPOSITORY, training_runs

OBJECTS = {
    one["kind"]: one
    for one in yaml.safe_load_all((REPOSITORY / "examples" / "agent-sandbox" / "evaluate.yaml").read_text())
}
TEMPLATE: dict[str, Any] = OBJECTS["SandboxTemplate"]["spec"]
JOB: dict[str, Any] = OBJECTS["Job"]["spec"]["template"]["spec"]


def test_a_sandbox_is_restricted() -> None:
    pod = TEMPLATE["podTemplate"]["spec"]
    (container,) = pod["containers"]
    assert pod["runtimeClassName"] == "gvisor"
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert "volumes" not in pod
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
    assert (TEMPLATE["networkPolicyManagement"], TEMPLATE["networkPolicy"]) == ("Managed", {}), (
        "a policy without rules forbids all traffic"
    )
    assert OBJECTS["Namespace"]["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}


def test_the_rights_are_those_that_the_command_needs() -> None:
    given = {
        (verb, group, resource)
        for rule in OBJECTS["Role"]["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert given == {(one.verb, one.group, "/".join(filter(None, (one.resource, one.subresource)))) for one in RIGHTS}


def test_names_fit_together() -> None:
    (container,) = JOB["containers"]
    name, *arguments = container["args"]
    command: Any = typer.main.get_command(app).commands[name]  # pyright: ignore[reportAttributeAccessIssue]
    given = command.make_context(name, arguments).params
    pool, account, role = OBJECTS["SandboxWarmPool"], OBJECTS["ServiceAccount"], OBJECTS["Role"]
    sandboxes = OBJECTS["Namespace"]["metadata"]["name"]
    assert given["place"] == training_runs()["examples/finetune-qwen3.yaml#0"]["spec"]["checkpoint"]["root"]
    assert (given["sandbox_pool"], given["sandbox_namespace"]) == (pool["metadata"]["name"], sandboxes)
    assert pool["spec"]["sandboxTemplateRef"]["name"] == OBJECTS["SandboxTemplate"]["metadata"]["name"]
    assert {
        OBJECTS[kind]["metadata"]["namespace"] for kind in ("SandboxTemplate", "SandboxWarmPool", "Role", "RoleBinding")
    } == {sandboxes}
    (subject,) = OBJECTS["RoleBinding"]["subjects"]
    assert subject == {"kind": "ServiceAccount", **account["metadata"]}
    assert OBJECTS["RoleBinding"]["roleRef"]["name"] == role["metadata"]["name"]
    assert JOB["serviceAccountName"] == account["metadata"]["name"]
    assert JOB["automountServiceAccountToken"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in JOB["volumes"]}
