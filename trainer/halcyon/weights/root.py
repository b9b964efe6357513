"""The model of a checkpoint, with everything that is needed to use it without the run that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from halcyon.checkpoint.arrays import KEPT_BYTES, AverageArrays, Checkpoint, ModelArrays, NoAverage
from halcyon.checkpoint.fingerprints import ADAPTER
from halcyon.data.cache.tokenizers import find_tokenizer
from halcyon.errors import BadConfiguration
from halcyon.storage.store import Store
from halcyon.tokenizer import BYTE, TokenizerDefinition
from halcyon.weights.companions import read_companions
from halcyon.weights.merging import MergedArrays
from halcyon_api.checkpoint_documents import HUGGING_FACE_PREFIX, CommittedStep
from halcyon_api.spec.adapter import AdapterSpec
from halcyon_api.spec.model import ModelSpec

Weights = Literal["model", "average"]
"""Which weights of a checkpoint are meant: the parameters, or their average (``spec.average``)."""


@dataclass(frozen=True)
class StoredModel:
    """The model of a checkpoint.

    Attributes:
        spec: ``spec.model`` of the run that made it.
        tokens: Tokens of its vocabulary, without padding.
        positions: Longest sequence in tokens.
        arrays: Its parameters, read in regions. An adapter is added to the weights (`MergedArrays`).
        definition: Its tokenizer; None: the root does not have it.
        files: Files of the folder that the model was imported from, by name.
        data: ``spec.data`` of the run that made it; empty for imported weights.
    """

    spec: ModelSpec
    tokens: int
    positions: int
    arrays: ModelArrays
    definition: TokenizerDefinition | None
    files: Mapping[str, bytes]
    data: Mapping[str, Any]

    @property
    def merged(self) -> MergedArrays | None:
        """`arrays`, if they are those of a run with an adapter; None: the run had none."""
        return self.arrays if isinstance(self.arrays, MergedArrays) else None


def split_step(place: str) -> tuple[str, int | None]:
    """``ROOT@STEP`` as root and step; a root without a step: the newest.

    Raises:
        BadConfiguration: The step is no number.
    """
    root, at, step = place.rpartition("@")
    if not at:
        return place, None
    if not step.isdigit():
        raise BadConfiguration(f"{place}: after the @ comes a step, such as {root}@1000")
    return root, int(step)


def stored_model(
    store: Store, entry: CommittedStep, *, kept_bytes: int = KEPT_BYTES, weights: Weights = "model"
) -> StoredModel:
    """The model of a checkpoint. Reads the documents; the parameters are read later.

    Args:
        store: The root.
        entry: The checkpoint.
        kept_bytes: Bytes of the checkpoint that reads keep in memory.
        weights: ``model``: the parameters. ``average``: their average (``spec.average``).

    Raises:
        BadConfiguration: The checkpoint does not say which model it holds, or has no average.
        Damaged: The manifest is damaged.
        StoreFailure: The store did not answer.
    """
    checkpoint = Checkpoint(store, entry)
    manifest = checkpoint.manifest
    documents = manifest.fingerprints.documents
    try:
        spec = ModelSpec.model_validate(documents["spec.model"])
    except (KeyError, ValidationError):
        spec = None
    if spec is None or manifest.vocabulary is None or manifest.positions is None:
        raise BadConfiguration(f"the checkpoint of step {entry.step} in {store.root} does not say which model it holds")
    try:
        arrays = _arrays(checkpoint, documents, kept_bytes, average=weights == "average")
    except NoAverage as why:
        raise BadConfiguration(
            f"the checkpoint of step {entry.step} in {store.root} has no average: {why}; leave weights out"
        ) from None
    data: Any = documents.get("data")
    fingerprint = data.get("tokenizerSha256") if isinstance(data, dict) else None
    definition = None
    if documents.get("spec.tokenizer", {}).get("byte") is not None:
        definition = BYTE
    elif isinstance(fingerprint, str):
        beside = Store(
            store.place.model_copy(update={"root": f"{store.root}/data"})
        )  # where runs keep their tokenizers by default
        definition = find_tokenizer(store, fingerprint) or find_tokenizer(beside, fingerprint)
    return StoredModel(
        spec=spec,
        tokens=manifest.vocabulary,
        positions=manifest.positions,
        arrays=arrays,
        definition=definition,
        files=read_companions(store, HUGGING_FACE_PREFIX),
        data=documents.get("spec.data") or {},
    )


def _arrays(checkpoint: Checkpoint, documents: Mapping[str, Any], kept_bytes: int, *, average: bool) -> ModelArrays:
    if ADAPTER not in documents:
        return (AverageArrays if average else ModelArrays)(checkpoint, kept_bytes=kept_bytes)
    try:
        lora = AdapterSpec.model_validate(documents[ADAPTER]).lora
    except ValidationError:
        raise BadConfiguration(
            f"the checkpoint of step {checkpoint.entry.step} has an adapter that this version does not know; use a "
            "newer version of Halcyon"
        ) from None
    return MergedArrays(checkpoint, lora, average=average, kept_bytes=kept_bytes)
