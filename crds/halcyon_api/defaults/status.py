"""``status.defaults``: what a run has taken from its defaults, as it was then."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints

from halcyon_api.base import MAX_NAME_LENGTH, ApiModel
from halcyon_api.defaults.units import Values
from halcyon_api.edits.status import InForce
from halcyon_api.maintenance import MAX_REQUEST_VALUE

DEFAULT_NAME = "default"
"""Name of the defaults of runs that name none."""


class RecordModel(ApiModel):
    """Survives up- and downgrades of the operator: fields not known here are passed over."""

    model_config = ConfigDict(extra="ignore")


class DefaultsSource(RecordModel):
    """A TrainingRunDefaults that something was taken from."""

    namespace: Annotated[str, StringConstraints(max_length=63)] = Field(description="Its namespace.")
    name: Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH)] = Field(description="Its name.")
    generation: int = Field(default=0, ge=0, description="Which state of it.")


class DefaultsStatus(RecordModel):
    """What the run has taken from its defaults. Later edits of those change nothing here until the run is told to take them anew."""

    name: Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH)] = Field(
        default=DEFAULT_NAME, description="`spec.defaults` when they were taken."
    )
    request: Annotated[str, StringConstraints(max_length=MAX_REQUEST_VALUE)] = Field(
        default="", description="Value of the annotation `halcyon.dev/refresh-defaults` when they were taken."
    )
    sources: Annotated[list[DefaultsSource], Field(max_length=2)] = Field(
        default_factory=list[DefaultsSource], description="Where they were taken from: the run's namespace, then the operator's."
    )
    values: InForce = Field(
        default_factory=dict[str, str], description="All that they set, by path, each as JSON text; what the run sets itself counts more."
    )


def written(values: Mapping[str, Any]) -> dict[str, str]:
    """Units as ``values`` has them."""
    return {path: json.dumps(value, sort_keys=True, ensure_ascii=False) for path, value in values.items()}


def read_values(record: DefaultsStatus | None) -> Values:
    """The units on record, whoever wrote it; what cannot be read is passed over."""
    found: Values = {}
    for path, text in (record.values if record is not None else {}).items():
        try:
            found[path] = json.loads(text)
        except (ValueError, RecursionError):
            continue
    return found


def settled(record: DefaultsStatus | None) -> tuple[str, str]:
    """Which defaults, by name and request, are on record: those of a run that was begun before there were any are taken for settled."""
    return (record.name, record.request) if record is not None else (DEFAULT_NAME, "")
