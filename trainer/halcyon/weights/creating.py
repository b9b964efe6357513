"""Makes a checkpoint that a run can begin with, from a folder with a model.

The weights are read in the chunks that are written, so the memory does not depend on the size of the model.
"""

import math

import numpy as np

from halcyon.checkpoint.arrays import MODEL_PREFIX
from halcyon.checkpoint.creating import create_checkpoint
from halcyon.checkpoint.layout import chunk_limit, chunk_shape
from halcyon.data.cache.tokenizers import keep_tokenizer
from halcyon.host.clock import timestamp
from halcyon.host.storage.store import Store
from halcyon.tokenizer.resolve import definition_of
from halcyon.weights.companions import keep_companions, read_companions, with_base
from halcyon.weights.folder import ModelFolder, model_shapes, read_config, source_name
from halcyon.weights.kept import keep_parts
from halcyon.weights.layout import LeafShape, WeightLayout
from halcyon.weights.peft_files import PeftFolder
from halcyon_api.checkpoint_documents import CommittedStep, ManifestLeaf, Owner
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
    shapes, kind = model_shapes(config.spec, rows, config.positions), None if dtype is None else np.dtype(dtype)
    folder = ModelFolder(source, config, shapes, kind, None if adapter is None else PeftFolder(adapter))
    files = with_base(read_companions(source), None if adapter else source_name(place, source))
    definition = definition_of(files)
    leaves = folder.layout.leaves.values()
    limit = chunk_limit(sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves))
    described = [_described(folder.layout, leaf, limit) for leaf in leaves]

    def keep() -> None:
        keep_companions(to, files)
        keep_parts(folder.kept(), to)
        if definition is not None:
            keep_tokenizer(to, definition)

    return create_checkpoint(
        to,
        described,
        lambda leaf, region: folder.read(leaf.path.removeprefix(MODEL_PREFIX), region),
        owner=owner,
        documents={
            "spec.model": config.spec.document(),
            "data": {} if definition is None else {"tokenizerSha256": definition.fingerprint},
        },
        vocabulary=config.tokens,
        positions=config.positions,
        time=timestamp(clock),
        before_commit=keep,
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
