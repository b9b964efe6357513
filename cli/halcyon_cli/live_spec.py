"""Reads the spec of a run in the cluster, with the values that the run has taken from its defaults."""

from __future__ import annotations

from typing import Any

from halcyon_api.defaults.files import with_values
from halcyon_api.defaults.units import Values
from halcyon_api.training_run import InvalidRun, TrainingRunSpec, parse_run
from halcyon_cli.errors import Rejected


def live_spec(live: dict[str, Any], values: Values) -> TrainingRunSpec:
    """The spec of a run in the cluster.

    Args:
        live: Its document, from the API server.
        values: The values that it has taken from its defaults.

    Raises:
        Rejected: This version cannot read it.
    """
    document = {key: live[key] for key in ("apiVersion", "kind", "metadata", "spec")}
    try:
        return parse_run(with_values(document, values)).spec
    except InvalidRun as error:
        raise Rejected(f"this version cannot read run {live['metadata']['name']} in the cluster: {error}") from None
