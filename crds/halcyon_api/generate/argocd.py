"""The ConfigMap with the health check and the actions of TrainingRuns for Argo CD, made from the scripts in
``gitops/argocd``.

The scripts have the file layout of Argo CD's own repository, so that it could include them unchanged. Today, Argo CD
needs the same text in its ConfigMap ``argocd-cm``: the health script under one key, all actions as a YAML document
under another.
"""

from pathlib import Path
from typing import Any

import yaml

from halcyon_api.training_run import GROUP, KIND

FOLDER = Path(__file__).resolve().parents[3] / "gitops" / "argocd"
SCRIPTS = FOLDER / "resource_customizations" / GROUP / KIND
CONFIG_MAP = FOLDER / "argocd-cm.yaml"
HEADER = """\
# Health and actions of TrainingRuns for Argo CD. Merge `data` into the ConfigMap of your installation, or apply it to that ConfigMap:
#   kubectl apply --server-side --field-manager=halcyon --namespace argocd --filename gitops/argocd/argocd-cm.yaml
# Generated from the scripts in resource_customizations by `make generate`. Do not edit.
"""


class _Dumper(yaml.SafeDumper):
    """Writes strings of several lines as block scalars."""


def _text(_: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return yaml.ScalarNode("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def _dump(document: dict[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000)


def config_map() -> dict[str, Any]:
    """The ConfigMap as a plain document."""
    actions = SCRIPTS / "actions"
    definitions = [
        {"name": path.parent.name, "action.lua": path.read_text(encoding="utf-8")}
        for path in sorted(actions.glob("*/action.lua"))
    ]
    customized = {"discovery.lua": (actions / "discovery.lua").read_text(encoding="utf-8"), "definitions": definitions}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "argocd-cm", "labels": {"app.kubernetes.io/part-of": "argocd"}},
        "data": {
            f"resource.customizations.health.{GROUP}_{KIND}": (SCRIPTS / "health.lua").read_text(encoding="utf-8"),
            f"resource.customizations.actions.{GROUP}_{KIND}": _dump(customized),
        },
    }


def render() -> str:
    """The committed file's text."""
    return HEADER + _dump(config_map())
