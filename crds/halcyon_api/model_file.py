"""Models of a config.json: ``model: {huggingFace: {config: PATH}}`` is replaced by the section that the file describes.

Every program that reads a document from a file does this once, before it checks the document: no run, stored object or
checkpoint depends on the file. The contract knows only the place in the document. `halcyon.weights.model_file` reads
config.json.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from halcyon_api.base import InvalidRun
from halcyon_api.template_file import with_template_files

ReadModel = Callable[[str, Path], dict[str, Any]]
"""Makes ``spec.model`` from ``config`` and the folder of the document."""


def config_of(document: Any) -> str | None:
    """The path of the config.json that a document names in place of a model; None if it names none, or is not of this
    form.
    """
    found = document
    for name in ("spec", "model", "huggingFace", "config"):
        if not isinstance(found, dict):
            return None
        found = cast("dict[str, Any]", found).get(name)
    return found if isinstance(found, str) else None


def with_model(document: Any, folder: Path, read: ReadModel | None) -> Any:
    """The document with the model of the config.json that it names, and with the templates of files; unchanged if it
    names none.

    Raises:
        InvalidRun: The document has another model too.
    """
    document = with_template_files(document, folder)
    config = config_of(document)
    if config is None:
        return document
    model = cast("dict[str, Any]", document["spec"]["model"])
    others = [name for name, value in model.items() if name != "huggingFace" and value is not None]
    if others:
        raise InvalidRun(f"spec.model: it has huggingFace and {others[0]}, two models; leave one of them out")
    return document if read is None else {**document, "spec": {**document["spec"], "model": read(config, folder)}}
