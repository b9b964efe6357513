"""The run documents of the demo: edited copies of an example. Pure, except for reading the file."""

import copy
from pathlib import Path
from typing import Any

from halcyon_api.yaml_text import read_documents

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"


def load(path: Path) -> list[dict[str, Any]]:
    """Read all documents of a YAML file."""
    return read_documents(path.read_text(encoding="utf-8"))


def example(name: str) -> dict[str, Any]:
    """Read the only document of `examples/NAME.yaml`."""
    (document,) = load(EXAMPLES / f"{name}.yaml")
    return document


def variant(document: dict[str, Any], *, name: str | None = None, steps: int | None = None) -> dict[str, Any]:
    """Return a copy with another name, also at the end of its checkpoint root, or another number of steps; None keeps
    the value.
    """
    changed = copy.deepcopy(document)
    if name is not None:
        old = changed["metadata"]["name"]
        root: str = changed["spec"]["checkpoint"]["root"]
        changed["metadata"]["name"] = name
        changed["spec"]["checkpoint"]["root"] = f"{root.removesuffix('/').removesuffix(old)}{name}"
    if steps is not None:
        changed["spec"]["trainer"]["steps"] = steps
    return changed
