"""Stores trained tokenizers beside the tokens that were made with them.

A model can be used only with its own tokenizer, and a tokenizer trained on other text would differ. So a run with
`from` takes the tokenizer of the other run if it can be found, and stores a copy. After that it does not need the other
run.
"""

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from halcyon.host.errors import DamagedData
from halcyon.host.storage.failures import StoreFailure, as_exit
from halcyon.host.storage.store import Store
from halcyon.tokenizer import TokenizerDefinition
from halcyon_api.checkpoint_documents import TOKENIZERS_PREFIX, canonical_json
from halcyon_api.spec.checkpoint import normal_root
from halcyon_api.training_run import TrainingRunSpec


def tokenizer_key(document: dict[str, Any]) -> str:
    """Key of a tokenizer below the caches' root: a hash of the document of all its inputs."""
    return f"{TOKENIZERS_PREFIX}{hashlib.sha256(canonical_json(document)).hexdigest()[:32]}.json"


def read_tokenizer(store: Store, key: str) -> TokenizerDefinition | None:
    """Read a stored tokenizer; None: there is none.

    Raises:
        DamagedData: It differs from what was stored.
        StoreFailure: The store did not answer.
    """
    content = store.read(key).data
    if content is None:
        return None
    damaged = f"spec.tokenizer.bpe: {store.root}/{key} is damaged; delete the cache to train it again"
    try:
        document = json.loads(content)
        ends = tuple(int(token) for token in document["ends"])
        definition = TokenizerDefinition(
            document["kind"], base64.b64decode(document["content"]), document["options"], ends
        )
        recorded = document["fingerprint"]
    except (ValueError, KeyError, TypeError):
        raise DamagedData(damaged) from None
    if definition.fingerprint != recorded:
        raise DamagedData(damaged)
    return definition


def store_tokenizer(store: Store, key: str, definition: TokenizerDefinition) -> None:
    """Store a tokenizer, unless the key exists."""
    document = {
        "kind": definition.kind,
        "content": base64.b64encode(definition.content).decode(),
        "options": dict(definition.options),
        "ends": list(definition.ends),
        "fingerprint": definition.fingerprint,
    }
    store.create(key, json.dumps(document).encode())


def keep_tokenizer(store: Store, definition: TokenizerDefinition) -> None:
    """Store a tokenizer in a checkpoint root, so that its model can be used without the files that the run read."""
    store_tokenizer(store, f"{TOKENIZERS_PREFIX}{definition.fingerprint[:32]}.json", definition)


def find_tokenizer(store: Store, fingerprint: str) -> TokenizerDefinition | None:
    """The stored tokenizer with a fingerprint; None: there is none. Skips damaged tokenizers."""
    for key in store.list(TOKENIZERS_PREFIX):
        try:
            definition = read_tokenizer(store, key)
        except DamagedData:
            continue
        if definition is not None and definition.fingerprint == fingerprint:
            return definition
    return None


@dataclass(frozen=True)
class InheritedTokenizer:
    """The trained tokenizer of the run that this one starts from."""

    source: dict[str, str]
    """Name and root of the other run; part of the key of the stored copy."""
    find: Callable[[], TokenizerDefinition | None]
    """Finds the tokenizer. None: the other run has none yet, or has not trained it, or its copies are deleted."""


def inherited_tokenizer(spec: TrainingRunSpec, store: Store) -> InheritedTokenizer | None:
    """The tokenizer that a run inherits; None: the run has no `from`, or its tokenizer is not trained.

    Args:
        spec: The run's spec.
        store: The root of its own caches, which runs with the same data may share.
    """
    origin = spec.origin
    if origin is None or origin.run is None or spec.tokenizer.bpe is None:
        return None

    def find() -> TokenizerDefinition | None:
        # Imports JAX, which a build does not need otherwise.
        from halcyon.checkpoint.origin import origin_place, tokenizer_fingerprint

        theirs = origin_place(origin, spec.checkpoint)
        try:
            own = Store(theirs, retry_budget=store.retry_budget)
            fingerprint = tokenizer_fingerprint(own)
            if fingerprint is None:
                return None
            beside = Store(theirs.but(root=f"{theirs.root.rstrip('/')}/data"), retry_budget=store.retry_budget)
            return next(filter(None, (find_tokenizer(place, fingerprint) for place in (store, own, beside))), None)
        except StoreFailure as failure:
            raise as_exit(
                failure, theirs.root, what="spec.from: the root of the other run", field="spec.from"
            ) from failure

    return InheritedTokenizer({"run": origin.run, "root": normal_root(origin.root or "")}, find)
