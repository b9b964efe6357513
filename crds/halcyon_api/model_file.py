"""Files that a document names: ``model: {family: huggingFace, configFile: PATH}`` is replaced by the model that the
config.json describes, and ``template: {path: FILE}`` of a source's format by the text of the file.

Every program that reads a document from a file does this once, before it checks the document: no run, stored object or
checkpoint depends on these files. The contract knows only the places in the document. `halcyon.weights.model_file`
reads config.json.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from halcyon_api.base import InvalidRun
from halcyon_api.plain_files import read_text, user_path
from halcyon_api.spec.model import ModelFileSpec
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
    file = folder / user_path(path.removeprefix("file://"))
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


def _fields(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _inside(document: Any, *names: str) -> Any:
    return functools.reduce(lambda found, name: _fields(found).get(name), names, document)


ReadModel = Callable[[str, Path], dict[str, Any]]
"""Makes ``spec.model`` from ``configFile`` and the folder of the document."""


def with_model(document: Any, folder: Path, read: ReadModel | None) -> Any:
    """The document with the models of the config.json that it names, for the run and its teacher, and with the
    templates of files; unchanged if it names none.

    Raises:
        InvalidRun: The document has fields of another family too.
    """
    document = with_template_files(document, folder)
    for names in (("spec", "model"), ("spec", "objective", "teacher", "model")):
        document = _with_model_at(document, names, ".".join(names), folder, read)
    return document


def _with_model_at(found: Any, names: tuple[str, ...], field: str, folder: Path, read: ReadModel | None) -> Any:
    here = _fields(found)
    if names:
        inner = _with_model_at(here.get(names[0]), names[1:], field, folder, read)
        return found if inner is here.get(names[0]) else {**here, names[0]: inner}
    config = here.get("configFile")
    if not isinstance(config, str) or here.get("family") != ModelFileSpec.model_fields["family"].default:
        return found
    others = [name for name, value in here.items() if name not in ("family", "configFile") and value is not None]
    if others:
        raise InvalidRun(f"{field}.{others[0]}: the family huggingFace has only configFile; take {others[0]} out")
    return found if read is None else read(config, folder)
