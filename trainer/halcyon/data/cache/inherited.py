"""The trained tokenizer of the run that another one goes on from.

A model means something with its own tokenizer alone. One that is trained on a run's own text would come out otherwise on other text, so a
run with `from` takes the other's where that is to be found, and keeps it: it needs the other run no more then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from halcyon.data.cache.kept_tokenizers import find_tokenizer
from halcyon.storage.failures import StoreFailure, as_exit
from halcyon.storage.store import Store
from halcyon.tokenizer import TokenizerDefinition
from halcyon_api.training_run import TrainingRunSpec


@dataclass(frozen=True)
class Heir:
    """A run that takes another one's trained tokenizer."""

    source: dict[str, str]
    """The other run, as part of what decides which tokenizer is kept."""
    find: Callable[[], TokenizerDefinition | None]
    """Looks for the other's tokenizer. None: it has none yet, or keeps it in a place that this run does not know."""


def heir_of(spec: TrainingRunSpec, store: Store) -> Heir | None:
    """What a run takes from the one that it goes on from, if it does, and if its tokenizer is a trained one.

    Args:
        spec: The run's spec.
        store: The root of its own caches, which runs of the same data may share.
    """
    origin = spec.origin
    if origin is None or spec.tokenizer.bpe is None:
        return None

    def find() -> TokenizerDefinition | None:
        from halcyon.checkpoint.origin import origin_place, tokenizer_fingerprint  # with JAX, which nobody else needs to build tokens

        theirs = origin_place(origin, spec.checkpoint)
        try:
            fingerprint = tokenizer_fingerprint(Store(theirs, patience=store.patience))
            if fingerprint is None:
                return None
            beside = Store(theirs.model_copy(update={"root": f"{theirs.root.rstrip('/')}/data"}), patience=store.patience)
            return find_tokenizer(store, fingerprint) or find_tokenizer(beside, fingerprint)
        except StoreFailure as failure:
            raise as_exit(failure, theirs.root, what="spec.from: the root of the other run") from failure

    return Heir({"run": origin.run, "root": (origin.root or "").rstrip("/")}, find)
