"""Keys of runs, objects, process groups and processes, usable as dictionary keys."""

from __future__ import annotations

from typing import Literal, NamedTuple

RunKey = tuple[str, str]
"""Namespace and name of a run."""

WatchedKind = Literal["trainingruns", "jobsets", "pods"]
"""Plural of a kind that the operator watches."""

ObjectKey = tuple[WatchedKind, str, str]
"""Kind, namespace and name of a watched object."""


class ProcessGroup(NamedTuple):
    """The processes of one JobSet restart. They start and end together; a later group has a larger value."""

    attempt: int
    restart: int
    """Restarts of the attempt's JobSet before this group."""


class ProcessIndex(NamedTuple):
    """One process of a group, by its slice and host."""

    slice: int
    host: int
    """Host inside the slice."""
