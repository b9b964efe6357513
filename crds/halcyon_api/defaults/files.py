"""Reads runs and their defaults from files, for a laptop and for checks without a cluster, with the same merge as the
operator.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from halcyon_api.base import InvalidRun
from halcyon_api.defaults.resource import parse_defaults
from halcyon_api.defaults.units import PREFIX, Values, merged, resolved, values_of_defaults, values_of_run
from halcyon_api.local_roots import with_root_addresses
from halcyon_api.model_file import ReadModel, with_model
from halcyon_api.overrides import names_model_file, parse_override, with_overrides
from halcyon_api.reading import parse_run, read_one, read_yaml
from halcyon_api.training_run import TrainingRun

_STORE = ("checkpoint.endpoint", "checkpoint.region", "checkpoint.credentialsSecret")


def load_defaults(paths: Sequence[Path]) -> Values:
    """The units of TrainingRunDefaults in files, the most specific file (and document in a file) first.

    Raises:
        InvalidRun: A file is missing, is not YAML, or has another kind of document.
    """
    found: Values = {}
    for path in paths:
        for document in read_yaml(path, "TrainingRunDefaults"):
            try:
                parse_defaults(document)
            except InvalidRun as error:
                raise InvalidRun(f"{path}: {error}") from None
            found = merged(found, values_of_defaults(document.get("spec")))
    return found


def load_resolved(
    document: Path | Mapping[str, Any],
    defaults: Sequence[Path] = (),
    checkpoint_root: str | None = None,
    read_model: ReadModel | None = None,
    overrides: Sequence[str] = (),
) -> TrainingRun:
    """Read a ``run.yaml`` of this machine, whose roots may be plain paths, and fill in its defaults.

    Args:
        document: The run: its file, or its contents.
        defaults: Files with its defaults, the most specific first.
        checkpoint_root: Checkpoint root for validation, so that a run without a root is valid too.
        read_model: Reads the model of a config.json that the run names. Default: such a run is not valid.
        overrides: Changes of the run, each ``PATH=VALUE`` (`halcyon_api.overrides`).

    Raises:
        InvalidRun: A file is missing or not YAML, a change does not fit the schema, or the run with its defaults is not
            valid.
    """
    found, folder = (read_one(document), document.parent) if isinstance(document, Path) else (dict(document), Path())
    run = with_root_addresses(with_changes(found, folder, read_model, overrides))
    values = load_defaults(defaults)
    return parse_run(
        with_values(run, with_root_prefix(values, [run], checkpoint_root) if checkpoint_root is not None else values)
    )


def with_changes(document: Any, folder: Path, read_model: ReadModel | None, overrides: Sequence[str]) -> Any:
    """A run's document with changes, and with the model of the config.json that it names.

    Args:
        document: The run.
        folder: The folder of the document.
        read_model: Reads the model of a config.json.
        overrides: Changes, each ``PATH=VALUE``.

    Raises:
        InvalidRun: A change does not fit the schema, or the model cannot be read.
    """
    changes = [parse_override(text) for text in overrides]
    before = with_overrides(document, [change for change in changes if names_model_file(change)])
    return with_overrides(
        with_model(before, folder, read_model), [change for change in changes if not names_model_file(change)]
    )


def with_root_prefix(values: Mapping[str, Any], documents: Sequence[Any], root: str) -> Values:
    """Units with a checkpoint root prefix if none is set, so that a run whose root is not known yet is valid too.

    Args:
        values: The units of the runs' defaults.
        documents: The runs. If one has settings of an S3 store, the prefix is on S3, because they are not valid
            elsewhere.
        root: The prefix if no run has such settings.
    """
    specs = [cast("dict[str, Any]", document).get("spec") for document in documents if isinstance(document, dict)]
    whole = [merged(values_of_run(spec), values) for spec in specs]
    in_store = any(path in units for units in whole for path in _STORE)
    return merged(values, {PREFIX: "s3://not-known-yet" if in_store else root})


def with_values(document: Any, values: Mapping[str, Any], namespace: str | None = None) -> Any:
    """A run's document with its defaults filled in. A document of another form is returned unchanged; the schema
    rejects it later.

    Args:
        document: As it was read.
        values: The units of its defaults.
        namespace: Namespace of the run, which overrides that of its document. Default: that of its document, or
            `default`.
    """
    whole: dict[str, Any] = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    spec, found = whole.get("spec"), whole.get("metadata")
    if not isinstance(spec, dict):
        return cast("Any", document)
    metadata = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    place = namespace or metadata.get("namespace") or "default", metadata.get("name")
    namespace, name = (value if isinstance(value, str) else "" for value in place)
    spec = cast("dict[str, Any]", spec)
    return whole | {"spec": resolved(spec, values if spec.get("defaults") != "" else {}, namespace, name)}
