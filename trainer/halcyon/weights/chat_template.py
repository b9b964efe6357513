"""The chat template of a model: that of the data that it was trained on, or of the files of Hugging Face that belong to
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halcyon.checkpoint.opening import entry_of
from halcyon.data.formats.template import DEFAULT_TEMPLATE
from halcyon.storage.store import Store
from halcyon.weights.companions import read_companions, template_of
from halcyon.weights.folder import HUB, address, folder_place
from halcyon.weights.root import split_step, stored_model
from halcyon_api.spec.sources import CONVERSATION_FORMATS

_FILES = "hf:"


def chat_template(place: str, *, endpoint: str | None = None, region: str | None = None) -> str | None:
    """The chat template of the model at a place; None: it has none.

    The arguments and errors are those of `halcyon.load`.
    """
    if place.startswith((HUB, _FILES)):
        folder = place if place.startswith(HUB) else place.removeprefix(_FILES)
        return template_of(read_companions(Store(folder_place(folder, endpoint, region))))
    root, step = split_step(place)
    store = Store(address(root, endpoint, region))
    stored = stored_model(store, entry_of(store, step))
    return template_of_run(stored.data, stored.files)


def template_of_run(data: Mapping[str, Any], files: Mapping[str, bytes]) -> str | None:
    """The chat template that a model was trained with; None: Halcyon's own, or none.

    It is that of the data. The files decide if the data has no template, several, or one that does not begin the
    assistant's turn.

    Args:
        data: ``spec.data`` of the run; may be empty.
        files: The files of the model that the run began with, by name.
    """
    of_data, of_files = _templates(data), template_of(files)
    if len(of_data) == 1 and (of_files is None or of_data[0] is None or "add_generation_prompt" in of_data[0]):
        return of_data[0]
    return of_files


def template_to_export(data: Mapping[str, Any], files: Mapping[str, bytes]) -> str | None:
    """The template for other programs; None: the model has none. Arguments: see `template_of_run`."""
    template = template_of_run(data, files)
    return DEFAULT_TEMPLATE if template is None and None in _templates(data) else template


def has_conversations(data: Mapping[str, Any]) -> bool:
    """Whether a run trains on conversations. ``data`` is its ``spec.data``; may be empty."""
    return bool(_templates(data))


def _templates(data: Mapping[str, Any]) -> list[str | None]:
    """The chat templates in ``spec.data``, each once; None: Halcyon's own."""
    forms = [source.get("format", {}) for source in data.get("sources", ())]
    found = [
        form[kind].get("template") for form in forms for kind in CONVERSATION_FORMATS if form.get(kind) is not None
    ]
    return list(dict.fromkeys(found))
