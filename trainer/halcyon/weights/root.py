"""The model of a checkpoint, with everything that is needed to use it without the run that made it.

An adapter is added to the weights that an export, an average or a new run reads.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from pydantic import ValidationError

from halcyon.checkpoint.arrays import KEPT_BYTES, AverageArrays, Checkpoint, ModelArrays, NoAverage
from halcyon.checkpoint.fingerprints import ADAPTER
from halcyon.checkpoint.layout import Region, whole
from halcyon.data.cache.tokenizers import find_tokenizer
from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.store import Store
from halcyon.models.adapters import adapter_path
from halcyon.models.axes import RANK
from halcyon.models.parameters import STACKED_AXES
from halcyon.models.parts.coded import CODES, SCALES, blocks_around, decoded
from halcyon.models.pooling import Pooling
from halcyon.tokenizer import BYTE, TokenizerDefinition
from halcyon.weights.companions import read_companions
from halcyon.weights.vectors import pooling_of
from halcyon_api.checkpoint_documents import HUGGING_FACE_PREFIX, CommittedStep, ManifestLeaf
from halcyon_api.spec.adapter import BASES, AdapterSpec, Base, LoraSpec
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.model import read_model

DOWN, UP, MAGNITUDE = "down", "up", "magnitude"


class CodedArrays(ModelArrays):
    """The parameters of a checkpoint, with the weights in the place of their codes (`halcyon.models.parts.coded`).

    Args:
        checkpoint: A checkpoint of a run with `base`.
        base: How the frozen weights are coded.
        dtype: Type of the decoded weights.
        kept_bytes: Bytes of chunks that are kept in memory.
    """

    def __init__(self, checkpoint: Checkpoint, base: Base, dtype: str, *, kept_bytes: int) -> None:
        super().__init__(checkpoint, kept_bytes=kept_bytes)
        self._base: Base = base
        self._coded: dict[str, tuple[int, ManifestLeaf, ManifestLeaf]] = {}
        ends = f".{CODES}", f".{SCALES}"
        for owner in [path.removesuffix(ends[0]) for path in self.leaves if path.endswith(ends[0])]:
            codes, scales = (self.leaves.pop(f"{owner}{end}") for end in ends)
            shape = list(codes.shape)
            at = next(number for number, size in enumerate(scales.shape) if size != shape[number])
            shape[at] *= BASES[base].per_element
            self._coded[owner] = at, codes, scales
            self.leaves[owner] = codes.but(shape=tuple(shape), dtype=dtype)

    def read(self, path: str, region: Region) -> np.ndarray:
        """See `ModelArrays.read`."""
        if path not in self._coded:
            return super().read(path, region)
        at, codes, scales = self._coded[path]
        form, (of, inside) = BASES[self._base], blocks_around(self._base, region, at, 1)
        read = self._read(codes, of(form.per_element)), self._read(scales, of(form.block))
        return decoded(self._base, *read, at)[inside].astype(jnp.dtype(self.leaves[path].dtype))


class MergedArrays(ModelArrays):
    """The parameters of the model that the adapted model computes. They have the paths, shapes and types of the frozen
    weights.

    Args:
        checkpoint: A checkpoint of a run with an adapter.
        lora: ``spec.adapter.lora`` of that run.
        dtype: Type of the weights.
        average: Merge the average of the adapter into the average of the weights, as an evaluation of the average does.
        kept_bytes: Bytes of chunks that are kept in memory.

    Raises:
        NoAverage: See `AverageArrays`.
    """

    def __init__(self, checkpoint: Checkpoint, lora: LoraSpec, dtype: str, *, average: bool, kept_bytes: int) -> None:
        super().__init__(checkpoint, kept_bytes=kept_bytes)
        self.lora = lora
        if lora.base is None or average:
            self._parts = (AverageArrays if average else ModelArrays)(checkpoint, kept_bytes=kept_bytes)
        else:
            self._parts = CodedArrays(checkpoint, lora.base, dtype, kept_bytes=kept_bytes)
        self.stored = self._parts.leaves
        """The manifest's entries of all arrays, those of the adapter too."""
        owners = {path: adapter_path(path) for path in self.stored if f"{adapter_path(path)}.{DOWN}" in self.stored}
        of_adapter = {f"{owner}.{name}" for owner in owners.values() for name in (DOWN, UP, MAGNITUDE)}
        self.leaves = {path: leaf for path, leaf in self.stored.items() if path not in of_adapter}
        self.adapters = owners
        """The paths of the adapters, by the paths of their weights."""

    def read(self, path: str, region: Region) -> np.ndarray:
        """See `ModelArrays.read`. The sum is computed in float32 and rounded to the type of the weight."""
        if path not in self.adapters:
            return self.read_stored(path, region)
        owner, leaf = self.adapters[path], self.leaves[path]
        axes = leaf.axes or ()
        down, up = (self._factor(f"{owner}.{name}", axes, region) for name in (DOWN, UP))
        magnitude = f"{owner}.{MAGNITUDE}"
        if magnitude not in self.stored:
            weight = self.read_stored(path, region)
            return _added(weight, axes, down, up, self.lora.scale).astype(weight.dtype)
        # A column's length needs the whole column.
        inputs = self.inputs(path)
        columns = tuple(
            whole((size,))[0] if name in inputs else part
            for name, size, part in zip(axes, leaf.shape, region, strict=True)
        )
        weight = self.read_stored(path, columns)
        adapted = _added(weight, axes, self._factor(f"{owner}.{DOWN}", axes, columns), up, self.lora.scale)
        over = tuple(at for at, name in enumerate(axes) if name in inputs)
        lengths = np.sqrt(np.sum(adapted * adapted, over, keepdims=True))
        wanted = self._factor(magnitude, axes, columns).values.reshape(lengths.shape)
        cut = tuple(part if name in inputs else slice(None) for name, part in zip(axes, region, strict=True))
        return (adapted * (wanted / lengths))[cut].astype(weight.dtype)

    def inputs(self, path: str) -> set[str]:
        """The axes of an adapted weight that a product sums over."""
        axes = self.stored[f"{self.adapters[path]}.{DOWN}"].axes or ()
        return {name for name in axes if name not in (RANK, *STACKED_AXES)}

    def read_stored(self, path: str, region: Region) -> np.ndarray:
        """A region of an array before the merge; see `ModelArrays.read`."""
        return self._parts.read(path, region)

    def release(self) -> None:
        """See `ModelArrays.release`."""
        self._parts.release()

    def _factor(self, path: str, axes: Sequence[str], region: Region) -> Factor:
        """The part of an array of an adapter that belongs to a region of its weight."""
        leaf, parts = self.stored[path], dict(zip(axes, region, strict=True))
        names = tuple(leaf.axes or ())
        own = tuple(parts.get(name, slice(0, size)) for name, size in zip(names, leaf.shape, strict=True))
        return Factor(names, self.read_stored(path, own).astype(np.float32))


@dataclass(eq=False)
class Factor:
    """An array of an adapter with the names of its axes."""

    names: tuple[str, ...]
    values: np.ndarray

    def ordered(self, *groups: Sequence[str]) -> np.ndarray:
        """The array with one dimension for each group of axes."""
        order = [name for group in groups for name in group]
        sizes = dict(zip(self.names, self.values.shape, strict=True))
        array = self.values.transpose([self.names.index(name) for name in order])
        return array.reshape([math.prod(sizes[name] for name in group) for group in groups])


def _added(weight: np.ndarray, axes: Sequence[str], down: Factor, up: Factor, scale: float) -> np.ndarray:
    """``weight + scale down up`` in float32, with the axes of the weight."""
    stacked = [name for name in axes if name in STACKED_AXES]
    inputs = [name for name in axes if name in down.names and name not in stacked]
    outputs = [name for name in axes if name in up.names and name not in stacked]
    product = down.ordered(stacked, inputs, [RANK]) @ up.ordered(stacked, [RANK], outputs)
    sizes = dict(zip(axes, weight.shape, strict=True))
    order = [*stacked, *inputs, *outputs]
    aligned = product.reshape([sizes[name] for name in order]).transpose([order.index(name) for name in axes])
    return weight.astype(jnp.float32) + np.float32(scale) * aligned


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
        root: The checkpoint root.
        pooling: What it makes vectors of texts of; None: it was not trained to make any.
    """

    spec: ModelSection
    tokens: int
    positions: int
    arrays: ModelArrays
    definition: TokenizerDefinition | None
    files: Mapping[str, bytes]
    data: Mapping[str, Any]
    root: Store
    pooling: Pooling | None = None

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
    spec = None
    with contextlib.suppress(KeyError, ValidationError):
        spec = read_model(documents["spec.model"])
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
        beside = Store(store.place.but(root=f"{store.root}/data"))  # where runs keep their tokenizers by default
        definition = find_tokenizer(store, fingerprint) or find_tokenizer(beside, fingerprint)
    files = read_companions(store, HUGGING_FACE_PREFIX)
    contrastive = documents.get("spec.objective", {}).get("contrastive")
    return StoredModel(
        spec=spec,
        tokens=manifest.vocabulary,
        positions=manifest.positions,
        arrays=arrays,
        definition=definition,
        files=files,
        data=documents.get("spec.data") or {},
        root=store,
        pooling=pooling_of(files) if contrastive is None else contrastive["pooling"],
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
    dtype = documents.get("spec.trainer", {}).get("precision", {}).get("parameters", "float32")
    return MergedArrays(checkpoint, lora, dtype, average=average, kept_bytes=kept_bytes)
