"""The ConfigMap with the health check and the actions of TrainingRuns for Argo CD, made from the scripts in
``gitops/argocd``.

The scripts have the file layout of Argo CD's own repository, so that it could include them unchanged. Today, Argo CD
needs the same text in its ConfigMap ``argocd-cm``: the health script under one key, all actions as a YAML document
under another.
"""

from pathlib import Path

from halcyon_api.generate.pages import page
from halcyon_api.training_run import GROUP, KIND

FOLDER = Path(__file__).resolve().parents[3] / "gitops" / "argocd"
SCRIPTS = FOLDER / "resource_customizations" / GROUP / KIND
CONFIG_MAP = FOLDER / "argocd-cm.yaml"


def render() -> str:
    """The committed file's text."""
    return page("argocd-cm.yaml.jinja", kind=f"{GROUP}_{KIND}", scripts=SCRIPTS)
