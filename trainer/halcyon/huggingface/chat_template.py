"""The chat template of a model, from the files of Hugging Face that belong to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from halcyon.checkpoint.opening import entry_of
from halcyon.huggingface.companions import read_companions
from halcyon.huggingface.folder import HUB, address, folder_place
from halcyon.huggingface.root import split_step, stored_model
from halcyon.storage.store import Store

_FILES = "hf:"


def chat_template(place: str, *, endpoint: str | None = None, region: str | None = None) -> str | None:
    """The chat template of the model at a place; None: it has none. The arguments and errors are those of `halcyon.load`."""
    if place.startswith((HUB, _FILES)):
        folder = place if place.startswith(HUB) else place.removeprefix(_FILES)
        return template_of(read_companions(Store(folder_place(folder, endpoint, region))))
    root, step = split_step(place)
    store = Store(address(root, endpoint, region))
    return template_of(stored_model(store, entry_of(store, step)).files)


def template_of(files: Mapping[str, bytes]) -> str | None:
    """The chat template among the files of a model: of ``chat_template.jinja``, else of the JSON files."""
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode(errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        try:
            document: Any = json.loads(files.get(name, b"{}"))
        except ValueError:
            continue
        found: Any = document.get("chat_template") if isinstance(document, dict) else None
        if isinstance(found, list):  # several by name
            named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
            found = named.get("default", next(iter(named.values()), None))
        if isinstance(found, str):
            return found
    return None
