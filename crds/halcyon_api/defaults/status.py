"""``status.defaults``: the values that a run has taken from its defaults."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, StringConstraints

from halcyon_api.base import MAX_NAME_LENGTH, StatusModel
from halcyon_api.defaults.units import Values
from halcyon_api.status.requests import MAX_REQUEST_VALUE, InForce, read_recorded

DEFAULT_NAME = "default"
"""Name of the defaults of a run without ``spec.defaults``."""


class DefaultsSource(StatusModel):
    """A TrainingRunDefaults from which values were taken."""

    namespace: Annotated[str, StringConstraints(max_length=63)]
    """Its namespace."""
    name: Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH)]
    """Its name."""
    generation: NonNegativeInt = 0
    """Its generation at that time."""


class DefaultsStatus(StatusModel):
    """The values that the run took from its defaults.

    Later edits of the defaults apply only after a request to refresh them.
    """

    name: Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH)] = DEFAULT_NAME
    """`spec.defaults` when they were taken."""
    request: Annotated[str, StringConstraints(max_length=MAX_REQUEST_VALUE)] = ""
    """Annotation `halcyon.dev/refresh-defaults` when they were taken."""
    sources: list[DefaultsSource] = Field(default_factory=list[DefaultsSource], max_length=2)
    """The sources: that in the run's namespace, then that in the operator's."""
    values: InForce = Field(default_factory=dict[str, str])
    """All values of the defaults, by path, as JSON text. The run's document overrides them."""


def written(values: Mapping[str, Any]) -> dict[str, str]:
    """Units in the form of ``status.defaults.values``."""
    return {path: json.dumps(value, sort_keys=True, ensure_ascii=False) for path, value in values.items()}


def read_values(record: DefaultsStatus | None) -> Values:
    """The recorded units."""
    return read_recorded(record.values) if record is not None else {}


def recorded_request(record: DefaultsStatus | None) -> tuple[str, str]:
    """Name and request of the recorded defaults. A run that began without a record counts as having taken `default`."""
    return (record.name, record.request) if record is not None else (DEFAULT_NAME, "")
