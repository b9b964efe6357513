"""The objects that the operator would create for a run, built by the operator's own pure functions."""

import json
from collections.abc import Sequence
from pathlib import Path

from halcyon.weights.model_file import read_model
from halcyon_api.defaults.files import load_resolved
from halcyon_api.yaml_text import dump_all
from halcyon_cli.output import Rejected, reading
from halcyon_cli.sweep_members import members_of
from halcyon_operator.model.decision import ConfigMapPlan, JobSetPlan
from halcyon_operator.model.settings import InvalidSettings, parse_settings
from halcyon_operator.objects.jobset import build_config_map, build_jobset
from halcyon_operator.observe.runs import parse_run_view

UNKNOWN_UID = "00000000-0000-0000-0000-000000000000"
"""Stands for the uid that the API server would set."""


def rendered(
    path: Path, trainer_image: str, cluster_domain: str, defaults: Sequence[Path] = (), overrides: Sequence[str] = ()
) -> str:
    """Return the objects of a run's first attempt as YAML documents.

    Args:
        path: The run document.
        trainer_image: Image of a run without `spec.image`.
        cluster_domain: DNS domain of the cluster.
        defaults: Files with the run's defaults, the most specific first.
        overrides: Changes of the run, each ``PATH=VALUE``.

    Raises:
        Rejected: The document is not a valid run, or not valid for a cluster.
    """
    with reading(path):
        document = load_resolved(path, defaults, read_model=read_model, overrides=overrides).document()
    document["metadata"]["uid"] = UNKNOWN_UID
    run = parse_run_view(document)
    if run.spec is None:
        raise Rejected(f"{path}: {'; '.join(run.problems)}")
    try:
        settings = parse_settings(json.dumps({"trainerImage": trainer_image, "clusterDomain": cluster_domain}))
    except InvalidSettings as error:
        raise Rejected(str(error)) from None
    jobset = build_jobset(JobSetPlan(run, run.spec, settings, 1, 0, run.spec.recovery.max_restarts))
    return dump_all([build_config_map(ConfigMapPlan(run, 1, run.spec)), jobset])


def rendered_matrix(path: Path, sweep: Path, defaults: Sequence[Path], overrides: Sequence[str]) -> str:
    """Return the TrainingRuns of a sweep as YAML documents, each of which is a valid run.

    Arguments and errors are those of `members_of`. The defaults are used in the checks only: the cluster fills them in.
    """
    return dump_all([member.variant.document for member in members_of(path, sweep, defaults, overrides)])
