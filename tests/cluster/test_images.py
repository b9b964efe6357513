"""The images in a pod with the restricted profile and a read-only file system: they contain what they need and nothing
else.
"""

import json
from typing import Any

import pytest

from halcyon_devcluster.images import Buildable, build
from halcyon_devcluster.progress import QUIET
from halcyon_devcluster.waiting import until
from tests.cluster.conftest import DevCluster

pytestmark = pytest.mark.cluster

INSPECT = """
import importlib.metadata, importlib.util, json, os, pathlib, shutil, struct, sys, sysconfig

def pyc_flags():
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        if spec and spec.cached and (spec.origin or "").startswith("/opt/halcyon"):
            yield struct.unpack("<I", open(spec.cached, "rb").read(8)[4:])[0]

import {modules}
stdlib = pathlib.Path(sysconfig.get_path("stdlib"))
print(json.dumps(dict(
    user=os.getuid(), process=os.getpid(), home=os.environ["HOME"],
    there=[name for name in {asked} if importlib.util.find_spec(name)],
    tools=[name for name in ("pip", "pip3", "uv", "gcc", "cc", "make") if shutil.which(name)],
    flags=sorted(set(pyc_flags())), version=importlib.metadata.version("halcyon-train"),
    compiled=(stdlib / "__pycache__").is_dir(), topics=(stdlib / "pydoc_data" / "topics.py").is_file(),
    tests=len(list(pathlib.Path("/opt/halcyon").rglob("tests/test_*.py"))),
    writable=[path for path in ("/", "/opt/halcyon", "/etc", "/var/cache/halcyon", "/tmp") if os.access(path, os.W_OK)],
)))
"""


def inspection_pod(image: str, modules: str, asked: list[str]) -> dict[str, Any]:
    mounts = {"tmp": "/tmp", "cache": "/var/cache/halcyon"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "inspection"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "inspection",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "command": ["python", "-c", INSPECT.format(modules=modules, asked=asked)],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
                }
            ],
            "volumes": [{"name": name, "emptyDir": {}} for name in mounts],
        },
    }


def inspect(devcluster: DevCluster, namespace: str, what: Buildable, modules: str) -> dict[str, Any]:
    cluster = devcluster.cluster
    image = cluster.load(build(what, cache=cluster.paths.cache, progress=QUIET))
    asked = [
        "jax",
        "kopf",
        "kubernetes",
        "halcyon",
        "halcyon_operator",
        "halcyon_api",
        "halcyon_devcluster",
        "halcyon_demo",
        "pytest",
    ]
    devcluster.kubectl.apply([inspection_pod(image, modules, asked)], "--namespace", namespace)

    def phase() -> str:
        return devcluster.kubectl(
            "get", "pod", "inspection", "--namespace", namespace, "--output=jsonpath={.status.phase}"
        )

    until(
        lambda: phase() in ("Succeeded", "Failed"),
        timeout_seconds=120,
        failure=lambda: f"the pod is {phase()} after 120 s",
    )
    output = devcluster.kubectl("logs", "inspection", "--namespace", namespace)
    assert phase() == "Succeeded", output
    return json.loads(output.splitlines()[-1])


def check_common(seen: dict[str, Any]) -> None:
    assert (seen["user"], seen["process"], seen["home"]) == (65532, 1, "/tmp")
    assert seen["tools"] == []
    assert seen["flags"] == [1], (
        "our packages and their dependencies must have byte code that is never compared with its source"
    )
    assert seen["compiled"], "the standard library must be compiled"
    assert seen["tests"] == 0
    assert seen["writable"] == ["/var/cache/halcyon", "/tmp"]
    assert seen["version"] == "0.1.0"


def test_trainer(devcluster: DevCluster, namespace: str) -> None:
    seen = inspect(
        devcluster, namespace, Buildable.TRAINER, "equinox, haliax, jax, optax, tensorstore, halcyon.run.train"
    )
    check_common(seen)
    assert seen["there"] == ["jax", "halcyon", "halcyon_api"]
    assert seen["topics"], "the example trains on the text of help()"


def test_operator(devcluster: DevCluster, namespace: str) -> None:
    seen = inspect(
        devcluster,
        namespace,
        Buildable.OPERATOR,
        "kopf, kubernetes, obstore, prometheus_client, halcyon_operator.run.app",
    )
    check_common(seen)
    assert seen["there"] == ["kopf", "kubernetes", "halcyon_operator", "halcyon_api"]
