"""Roots that are folders of this machine, written as plain paths. A document for a cluster needs addresses."""

import os
from collections.abc import Mapping
from typing import Any, cast

from halcyon_api.spec.checkpoint import normal_root

_FIELDS = (("checkpoint", "root"), ("from", "root"), ("export", "root"), ("data", "cache", "root"))
"""Fields of ``spec`` that are addresses of roots."""


def root_address(place: str) -> str:
    """The address of a root, where a path is a folder of this machine; ``~`` is the home folder."""
    return place if "://" in place else f"file://{os.path.abspath(os.path.expanduser(place))}"  # noqa: PTH100, PTH111 - `..` must go, and an unknown ~name stays


def real_root(root: str) -> str:
    """The one spelling of a root on this machine, with symbolic links resolved."""
    found = normal_root(root)
    return f"file://{os.path.realpath(found.removeprefix('file://'))}" if found.startswith("file://") else found


def with_root_addresses(document: Any) -> Any:
    """A run's document with addresses in place of the plain paths of its roots. What is no text stays."""
    if not isinstance(document, Mapping):
        return document
    found: dict[str, Any] = dict(cast("Mapping[str, Any]", document))
    for path in _FIELDS:
        found = _with_address(found, ("spec", *path))
    return found


def _with_address(section: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    value = section.get(path[0])
    if len(path) == 1:
        return {**section, path[0]: root_address(value)} if isinstance(value, str) and value else section
    if not isinstance(value, Mapping):
        return section
    return {**section, path[0]: _with_address(dict(cast("Mapping[str, Any]", value)), path[1:])}
