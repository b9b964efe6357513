"""When a run takes its defaults, and which values it takes. Pure.

A run takes them once: their values are written into `status.defaults` together with the number of its first attempt.
From then on the run is defined by its document and that record, so an edit of the defaults changes no run that has
begun. A run takes its defaults again when its annotation gets a new value or `spec.defaults` changes. The difference is
then an edit of the run like any other, with a checkpoint and a new attempt if the field needs one. Nothing is written
into `spec`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from halcyon_api import names
from halcyon_api.base import MAX_NAME_LENGTH, InvalidRun
from halcyon_api.defaults.resource import KIND, parse_defaults
from halcyon_api.defaults.status import (
    DEFAULT_NAME,
    DefaultsSource,
    DefaultsStatus,
    read_values,
    recorded_request,
    written,
)
from halcyon_api.defaults.units import ROOT, Values, kept_place, merged, resolved, values_of_defaults, values_of_run
from halcyon_api.status.requests import MAX_REQUEST_VALUE, MAX_VALUE
from halcyon_api.status.run_status import TrainingRunStatus, parse_status
from halcyon_operator.model.untrusted import count, mapping, text, value_at


@dataclass(frozen=True)
class FoundDefaults:
    """The defaults that a run would take, as read from the API server."""

    name: str
    """`spec.defaults` of the run, or `default`."""
    namespaces: tuple[str, ...]
    """The namespaces that were read: that of the run, then that of the operator."""
    documents: tuple[object, ...]
    """The defaults found, the most specific first."""
    named: bool = True
    """Whether one of the documents has the name."""


@dataclass(frozen=True)
class Taken:
    """The defaults that a run has taken, or would take now."""

    record: DefaultsStatus | None
    """The new `status.defaults`; None: no change."""
    values: Values
    problem: str = ""
    """One sentence why the defaults cannot be taken; empty: they can."""


def wanted(document: object) -> tuple[str, str]:
    """Name of the defaults that a run's document requests, and the value of the request.

    An empty name requests none.
    """
    name = value_at(document, "spec", "defaults")
    name = name if isinstance(name, str) and len(name) <= MAX_NAME_LENGTH else DEFAULT_NAME
    request = text(value_at(document, "metadata", "annotations", names.ANNOTATION_REFRESH_DEFAULTS), MAX_REQUEST_VALUE)
    return name, request


def due(document: object, status: TrainingRunStatus) -> bool:
    """Whether the run takes its defaults with the next attempt."""
    return status.attempt == 0 or wanted(document) != recorded_request(status.defaults)


def taken(document: object, status: TrainingRunStatus, read: FoundDefaults | None) -> Taken:
    """The defaults that apply to a run.

    Args:
        document: The run.
        status: The run's status.
        read: The run's defaults as they are now; None: not read.
    """
    recorded = read_values(status.defaults)
    if read is None or not due(document, status):
        return Taken(None, recorded)
    name, request = wanted(document)
    if name and name != DEFAULT_NAME and not read.named:
        where = " nor ".join(read.namespaces)
        sentence = f"spec.defaults: there is no {KIND} {name} in namespace {where}; correct the name, or leave it out"
        return Taken(None, recorded, sentence)
    values: Values = {}
    for found in read.documents:
        try:
            parse_defaults(found)
        except InvalidRun as error:
            metadata = mapping(value_at(found, "metadata"))
            return Taken(
                None,
                recorded,
                f"{KIND} {text(metadata.get('namespace'))}/{text(metadata.get('name'))}: {text(str(error), 1024)}",
            )
        values = merged(values, values_of_defaults(value_at(found, "spec")))
    if status.attempt > 0:
        values = kept_place(recorded, values)
    texts = written(values)
    if long := next((path for path, value in texts.items() if len(value) > MAX_VALUE), None):
        sentence = (
            f"spec.{long} of the defaults has {len(texts[long]):,} characters as JSON, and at most {MAX_VALUE:,} can "
            "be taken; shorten it"
        )
        return Taken(None, recorded, sentence)
    record = DefaultsStatus(
        name=name, request=request, sources=[_source(found) for found in read.documents][:2], values=texts
    )
    return Taken(record, values)


def resolved_spec(document: object, values: Mapping[str, Any]) -> dict[str, object]:
    """The spec of a run with its defaults."""
    metadata, spec = mapping(value_at(document, "metadata")), mapping(value_at(document, "spec"))
    if not values:
        return spec
    return resolved(spec, values, text(metadata.get("namespace")) or "default", text(metadata.get("name")))


def root_of_run(document: object) -> str | None:
    """The checkpoint root of a run that has begun, or whose document sets it; None for other runs."""
    status = parse_status(value_at(document, "status"))
    return text(values_of_run(resolved_spec(document, read_values(status.defaults))).get(ROOT)) or None


def _source(document: object) -> DefaultsSource:
    metadata = mapping(value_at(document, "metadata"))
    namespace, name = text(metadata.get("namespace")), text(metadata.get("name"))
    return DefaultsSource(namespace=namespace, name=name, generation=count(metadata.get("generation")))
