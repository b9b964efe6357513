"""Trained tokenizers, kept beside the tokens that were made with them."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from halcyon.errors import DamagedData
from halcyon.storage.store import Store
from halcyon.tokenizer import TokenizerDefinition
from halcyon_api.checkpoint_documents import canonical_json

_PREFIX = "tokenizers/"


def tokenizer_key(document: dict[str, Any]) -> str:
    """The place of a tokenizer below the caches' root, by all that decides it."""
    return f"{_PREFIX}{hashlib.sha256(canonical_json(document)).hexdigest()[:32]}.json"


def read_tokenizer(store: Store, key: str) -> TokenizerDefinition | None:
    """A kept tokenizer; None where there is none.

    Raises:
        DamagedData: It is not what was kept.
        StoreFailure: The store did not answer.
    """
    content = store.read(key).data
    if content is None:
        return None
    damaged = f"spec.tokenizer.bpe: {store.root}/{key} is damaged; delete the cache to train it anew"
    try:
        document = json.loads(content)
        definition = TokenizerDefinition(document["kind"], base64.b64decode(document["content"]), document["options"])
        recorded = document["fingerprint"]
    except (ValueError, KeyError, TypeError):
        raise DamagedData(damaged) from None
    if definition.fingerprint != recorded:
        raise DamagedData(damaged)
    return definition


def keep_tokenizer(store: Store, key: str, definition: TokenizerDefinition) -> None:
    """Keep a tokenizer, unless one is kept there."""
    document = {
        "kind": definition.kind,
        "content": base64.b64encode(definition.content).decode(),
        "options": dict(definition.options),
        "fingerprint": definition.fingerprint,
    }
    store.create(key, json.dumps(document).encode())


def find_tokenizer(store: Store, fingerprint: str) -> TokenizerDefinition | None:
    """The kept tokenizer with a fingerprint; None where none has it. Damaged ones are passed over."""
    for key in store.list(_PREFIX):
        try:
            definition = read_tokenizer(store, key)
        except DamagedData:
            continue
        if definition is not None and definition.fingerprint == fingerprint:
            return definition
    return None
