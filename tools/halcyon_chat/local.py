"""The form of a cluster's run document for this machine. Pure."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any


def bucket_of(document: dict[str, Any]) -> str:
    """The address that holds the root of a run: ``s3://checkpoints`` for ``s3://checkpoints/chat-data``."""
    return document["spec"]["checkpoint"]["root"].rstrip("/").rpartition("/")[0]


def local_form(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A copy of a run document whose addresses in the bucket of its root are paths below a folder, on this machine's
    processor.

    Nothing else changes: the numbers of the run are those of the cluster, up to rounding on another mesh.

    Args:
        document: The document.
        folder: An absolute path.
    """
    bucket = bucket_of(document)
    local = _moved(copy.deepcopy(document), f"{bucket}/", f"{folder.as_uri()}/")
    spec = local["spec"]
    spec["accelerator"] = {"type": "cpu"}
    for name in ("endpoint", "region", "credentialsSecret", "volumeClaim"):
        spec["checkpoint"].pop(name, None)
    origin = spec.get("from", {})
    if "run" in origin and "root" not in origin:  # in a cluster the operator knows it
        origin["root"] = f"{folder.as_uri()}/{origin['run']}"
    return local


def _moved(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {name: _moved(one, old, new) for name, one in value.items()}
    if isinstance(value, list):
        return [_moved(one, old, new) for one in value]
    return new + value.removeprefix(old) if isinstance(value, str) and value.startswith(old) else value
