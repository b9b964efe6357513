"""Makes a checkpoint that a run can begin with: from a folder with a model, or as the average of several checkpoints.

The weights are read in the chunks that are written, so the memory does not depend on the size of the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from halcyon.checkpoint.arrays import KEPT_BYTES, MODEL_PREFIX
from halcyon.checkpoint.creating import create_checkpoint
from halcyon.checkpoint.layout import Region, chunk_limit, chunk_shape
from halcyon.data.cache.tokenizers import keep_tokenizer
from halcyon.host.clock import timestamp
from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.store import Store
from halcyon.tokenizer import TokenizerDefinition
from halcyon.tokenizer.resolve import definition_of
from halcyon.weights.companions import keep_companions, read_companions, with_base
from halcyon.weights.folder import ModelFolder, read_config, source_name
from halcyon.weights.kept import KeptParts, keep_parts, read_kept
from halcyon.weights.layout import LeafShape, ReadRegion, WeightLayout
from halcyon.weights.peft_files import PeftFolder
from halcyon.weights.root import StoredModel, stored_model
from halcyon_api.checkpoint_documents import CommittedStep, ManifestLeaf, Owner
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.tokenizer import VOCABULARY_MULTIPLE


def import_model(
    source: Store,
    to: Store,
    *,
    owner: Owner,
    dtype: str | None = None,
    adapter: Store | None = None,
    clock: float,
    place: str = "",
    images: bool = False,
) -> CommittedStep:
    """Write the model of a folder into a fresh checkpoint root, as a checkpoint of step 0 that holds only the model.

    Memory: a few chunks of the checkpoint, not the model.

    Args:
        source: The folder.
        to: The root.
        owner: The run to which the root belongs; other runs of its namespace can begin from it.
        dtype: Type of all parameters. None: that of the files, so an export has the same bits.
        adapter: A folder with an adapter of peft, which is added to the weights.
        clock: Seconds since 1970.
        place: How the user names the folder.
        images: See `halcyon.weights.library.load`.

    Raises:
        BadConfiguration: The folder is not a model that Halcyon has, or its files are damaged.
        RootTaken: The root already holds checkpoints.
        StoreFailure: A store did not answer.
    """
    config = read_config(source, images=images)
    rows = -(-config.tokens // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    shapes, kind = config.shapes(rows, config.positions), None if dtype is None else np.dtype(jnp.dtype(dtype))
    folder = ModelFolder(source, config, shapes, kind, None if adapter is None else PeftFolder(adapter))
    files = with_base(read_companions(source), None if adapter else source_name(place, source))
    definition = definition_of(files)
    leaves = folder.leaves.values()
    limit = chunk_limit(sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves))
    described = [_described(folder.layout, leaf, limit) for leaf in leaves]
    return _create(
        to,
        described,
        folder.read,
        owner=owner,
        clock=clock,
        spec=config.spec,
        tokens=config.tokens,
        positions=config.positions,
        definition=definition,
        files=files,
        kept=folder.kept(),
    )


def _described(layout: WeightLayout, leaf: LeafShape, limit_bytes: int) -> ManifestLeaf:
    """The manifest entry of a parameter.

    Its chunks are cut so that each byte of the files is read once, if possible.
    """
    sizes = dict(leaf.axes)
    for axes in (*layout.cheap_cuts(leaf.path), tuple(leaf.axes)):
        others = math.prod(size for name, size in sizes.items() if name not in axes)
        cut = chunk_shape(tuple(sizes[name] for name in axes), leaf.dtype.itemsize * max(others, 1), limit_bytes)
        sizes |= dict(zip(axes, cut, strict=True))
    chunks = tuple(max(size, 1) for size in sizes.values())
    path = f"{MODEL_PREFIX}{leaf.path}"
    return ManifestLeaf(path=path, shape=leaf.shape, dtype=leaf.dtype.name, axes=tuple(leaf.axes), chunk_shape=chunks)


@dataclass(frozen=True)
class Averaged:
    """One of the checkpoints: its root and its entry there."""

    store: Store
    entry: CommittedStep

    def __str__(self) -> str:
        return f"{self.store.root}@{self.entry.step}"


def average_models(sources: Sequence[Averaged], to: Store, *, owner: Owner, clock: float) -> StoredModel:
    """Write the mean of several models into a fresh root, as a checkpoint of step 0 that holds only the model.

    Each element is summed in float32, in the order of the sources, divided by their number, and rounded to the type of
    the checkpoints.

    Args:
        sources: At least two checkpoints of one model.
        to: The root.
        owner: The run to which the root belongs; other runs of its namespace can begin from it.
        clock: Seconds since 1970.

    Returns:
        The model of the new checkpoint.

    Raises:
        BadConfiguration: There are fewer than two checkpoints, or they hold different models.
        Damaged: A checkpoint is damaged.
        RootTaken: The root already holds checkpoints.
        StoreFailure: A store did not answer.
    """
    if len(sources) < 2:
        raise BadConfiguration("an average needs at least two checkpoints; name another ROOT@STEP")
    names = [str(source) for source in sources]
    if len(set(names)) < len(names):
        raise BadConfiguration(
            f"{next(name for name in names if names.count(name) > 1)} is named twice; name each checkpoint once"
        )
    models = [stored_model(source.store, source.entry, kept_bytes=KEPT_BYTES // len(sources)) for source in sources]
    first = models[0]
    for name, other in zip(names[1:], models[1:], strict=True):
        _require_same(names[0], first, name, other)
    kept = [read_kept(source.store) for source in sources]
    if any((one and one.listed) != (kept[0] and kept[0].listed) for one in kept):
        raise BadConfiguration(
            f"{' and '.join(names)} keep different tensors of parts that were not trained; average checkpoints of one "
            "base model"
        )
    leaves = list(first.arrays.leaves.values())
    limit = chunk_limit(sum(math.prod(leaf.shape) * _dtype(leaf).itemsize for leaf in leaves))

    def mean(path: str, region: Region) -> np.ndarray:
        total = np.zeros([part.stop - part.start for part in region], np.float32)
        for model in models:
            total += model.arrays.read(path, region).astype(np.float32)
        return (total / np.float32(len(models))).astype(_dtype(first.arrays.leaves[path]))

    described = [leaf.but(chunk_shape=chunk_shape(leaf.shape, _dtype(leaf).itemsize, limit)) for leaf in leaves]
    entry = _create(
        to,
        described,
        mean,
        owner=owner,
        clock=clock,
        spec=first.spec,
        tokens=first.tokens,
        positions=min(model.positions for model in models),
        definition=first.definition,
        files=with_base(first.files, None),
        kept=kept[0],
    )
    return replace(stored_model(to, entry), definition=first.definition)


def _create(
    to: Store,
    leaves: Sequence[ManifestLeaf],
    read: ReadRegion,
    *,
    owner: Owner,
    clock: float,
    spec: ModelSection,
    tokens: int,
    positions: int,
    definition: TokenizerDefinition | None,
    files: Mapping[str, bytes],
    kept: KeptParts | None,
) -> CommittedStep:
    """Write a model into a fresh root, with its tokenizer and the files of Hugging Face that belong to it."""

    def keep() -> None:
        keep_companions(to, files)
        keep_parts(kept, to)
        if definition is not None:
            keep_tokenizer(to, definition)

    return create_checkpoint(
        to,
        leaves,
        lambda leaf, region: read(leaf.path.removeprefix(MODEL_PREFIX), region),
        owner=owner,
        documents={
            "spec.model": spec.document(),
            "data": {} if definition is None else {"tokenizerSha256": definition.fingerprint},
        },
        vocabulary=tokens,
        positions=positions,
        time=timestamp(clock),
        before_commit=keep,
    )


def _require_same(first_name: str, first: StoredModel, name: str, other: StoredModel) -> None:
    """Compare two models, by their sections, tokenizers and arrays."""
    both = f"{first_name} and {name}"
    here, there = first.spec.document(), other.spec.document()
    if here != there:
        raise BadConfiguration(
            f"{both} hold different models: {_difference(here, there)}; average checkpoints of one model"
        )
    if (
        first.definition is not None
        and other.definition is not None
        and first.definition.fingerprint != other.definition.fingerprint
    ):
        raise BadConfiguration(
            f"{both} have different tokenizers, so their rows mean different tokens; average checkpoints of one "
            "tokenizer"
        )
    mine, theirs = first.arrays.leaves, other.arrays.leaves
    for path in sorted(mine.keys() | theirs.keys()):
        if path not in mine or path not in theirs:
            raise BadConfiguration(
                f"the array model.{path} is only in {first_name if path in mine else name}; average checkpoints of one "
                "model"
            )
        for what, one, two in (
            ("shape", list(mine[path].shape), list(theirs[path].shape)),
            ("type", mine[path].dtype, theirs[path].dtype),
        ):
            if one != two:
                raise BadConfiguration(
                    f"the array model.{path} has the {what} {one} in {first_name} and {two} in {name}; average "
                    "checkpoints of one model"
                )
    if first.tokens != other.tokens:
        raise BadConfiguration(
            f"{both} have {first.tokens} and {other.tokens} tokens; average checkpoints of one tokenizer"
        )


def _difference(here: dict[str, object], there: dict[str, object]) -> str:
    """The first field of ``spec.model`` that differs: the family, if that does."""
    names = ("family", *sorted(here.keys() | there.keys()))
    field = next(name for name in names if here.get(name) != there.get(name))
    return f"model.{field} is {here.get(field)} and {there.get(field)}"


def _dtype(leaf: ManifestLeaf) -> np.dtype:
    return np.dtype(jnp.dtype(leaf.dtype))
