"""Chat templates in files: ``template: {path: FILE}`` of a source's format is replaced by the text of the file.

As with the model of a config.json (`halcyon_api.model_file`), every program that reads a document from a file does this
once, before it checks the document. No run, stored object or checkpoint depends on the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from halcyon_api.base import InvalidRun
from halcyon_api.plain_files import read_text
from halcyon_api.spec.sources import CONVERSATION_FORMATS


def with_template_files(document: Any, folder: Path) -> Any:
    """The document with the text of each template that it names by a path; unchanged if it names none.

    Args:
        document: The run, as it was read.
        folder: The folder of the document, which relative paths begin at.

    Raises:
        InvalidRun: A file cannot be read, or is not UTF-8.
    """
    sources = _inside(document, "spec", "data", "sources")
    if not isinstance(sources, list):
        return document
    changed = [
        _source(source, folder, f"spec.data.sources[{number}]")
        for number, source in enumerate(cast("list[Any]", sources))
    ]
    if all(after is before for after, before in zip(changed, cast("list[Any]", sources), strict=True)):
        return document
    spec = document["spec"]
    return {**document, "spec": {**spec, "data": {**spec["data"], "sources": changed}}}


def _source(source: Any, folder: Path, where: str) -> Any:
    for kind in CONVERSATION_FORMATS:
        template = _inside(source, "format", kind, "template")
        if isinstance(template, dict):
            text = _text(cast("dict[str, Any]", template), folder, f"{where}.format.{kind}.template")
            form = source["format"]
            return {**source, "format": {**form, kind: {**form[kind], "template": text}}}
    return source


def _text(template: dict[str, Any], folder: Path, where: str) -> str:
    path = template.get("path")
    if list(template) != ["path"] or not isinstance(path, str):
        raise InvalidRun(f"{where}: give a text with the template, or an object with the one member path, a file")
    file = folder / Path(path.removeprefix("file://")).expanduser()
    try:
        return read_text(file)
    except UnicodeDecodeError as error:
        raise InvalidRun(
            f"{where}.path: {path} is no text in UTF-8 at byte {error.start}; give a file with a Jinja template"
        ) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidRun(
            f"{where}.path: {path} cannot be read ({reason}); give a file with a Jinja template on this machine"
        ) from None


def _inside(document: Any, *names: str) -> Any:
    found = document
    for name in names:
        if not isinstance(found, dict):
            return None
        found = cast("dict[str, Any]", found).get(name)
    return found
