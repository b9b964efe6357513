"""Runs and their defaults from files, for a laptop and for checks without a cluster: the same merge that the operator does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from halcyon_api.defaults.resource import TrainingRunDefaults, parse_defaults
from halcyon_api.defaults.units import PREFIX, Values, over, resolved, values_of_defaults, values_of_run
from halcyon_api.training_run import InvalidRun, TrainingRun, parse_run, read_one, read_yaml, spec_form

_STORE = ("checkpoint.endpoint", "checkpoint.region", "checkpoint.credentialsSecret")


def load_defaults(paths: Sequence[Path]) -> Values:
    """The units of TrainingRunDefaults in files, the most specific file (and document in it) first.

    Raises:
        InvalidRun: A file is missing, is not YAML, or holds something else.
    """
    found: Values = {}
    for path in paths:
        for document in read_yaml(path):
            try:
                parse_defaults(document)
            except InvalidRun as error:
                raise InvalidRun(f"{path}: {error}") from None
            found = over(found, values_of_defaults(spec_form(TrainingRunDefaults, document).spec))
    return found


def load_resolved(path: Path, defaults: Sequence[Path] = (), checkpoint_root: str | None = None) -> TrainingRun:
    """Read a ``run.yaml`` with what it takes from its defaults.

    Args:
        path: The run.
        defaults: Files with its defaults, the most specific first.
        checkpoint_root: Where the checkpoints will be in any case, so that a run that does not say where is no less valid.

    Raises:
        InvalidRun: A file is missing or not YAML, or together they make no valid run.
    """
    document, values = read_one(path), load_defaults(defaults)
    return parse_run(with_values(document, placed(values, [document], checkpoint_root) if checkpoint_root is not None else values))


def placed(values: Mapping[str, Any], documents: Sequence[Any], root: str) -> Values:
    """Units with a place for checkpoints where nobody names one, so that a run of which it is not known yet is no less valid.

    Args:
        values: The units of the runs' defaults.
        documents: The runs. Settings of an S3 store that one of them has would not fit a place elsewhere.
        root: The place, where there are no such settings.
    """
    specs = [cast("dict[str, Any]", document).get("spec") for document in documents if isinstance(document, dict)]
    whole = [over(values_of_run(spec), values) for spec in specs]
    in_store = any(path in units for units in whole for path in _STORE)
    return over(values, {PREFIX: "s3://not-known-yet" if in_store else root})


def with_values(document: Any, values: Mapping[str, Any], namespace: str | None = None) -> Any:
    """A run's document with what it takes. One that is no run's is left for the schema to refuse.

    Args:
        document: As it was read.
        values: The units of its defaults.
        namespace: Where the run is, whatever its document says. Default: where it says, or `default`.
    """
    whole: dict[str, Any] = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    spec, found = spec_form(TrainingRun, document).spec, whole.get("metadata")
    if not isinstance(spec, dict):
        return cast("Any", document)
    metadata = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    place = namespace or metadata.get("namespace") or "default", metadata.get("name")
    namespace, name = (value if isinstance(value, str) else "" for value in place)
    spec = cast("dict[str, Any]", spec)
    return whole | {"spec": resolved(spec, values if spec.get("defaults") != "" else {}, namespace, name)}
