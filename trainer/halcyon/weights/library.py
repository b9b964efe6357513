"""Models as a library: load one from a checkpoint or from files, compute logits, and name arrays as an exported file
does.
"""

import copy
import functools
from typing import Any, get_args

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from halcyon.checkpoint.layout import Region
from halcyon.checkpoint.opening import entry_of
from halcyon.checkpoint.verify import Damaged
from halcyon.host.errors import BadConfiguration, NoValidCheckpoint
from halcyon.host.storage.failures import StoreFailure, as_exit
from halcyon.host.storage.store import Store
from halcyon.models import CausalLM, Inputs
from halcyon.models.axes import BATCH, BESIDE, POSITION, VOCAB, is_named
from halcyon.models.families.lookup import published_of_section
from halcyon.models.int8 import quantized
from halcyon.models.model import with_pooling
from halcyon.parallel.device_mesh import with_mesh
from halcyon.tokenizer import Tokenizer, TokenizerDefinition, check_rows
from halcyon.tokenizer import load as load_tokenizer
from halcyon.tokenizer.resolve import definition_of
from halcyon.weights.chat_template import template_of_run
from halcyon.weights.companions import read_companions, template_of
from halcyon.weights.folder import ModelFolder, files_folder, model_shapes, read_config, root_place
from halcyon.weights.layout import WeightLayout, leaf_shapes
from halcyon.weights.reading import read_arrays
from halcyon.weights.root import Weights, split_step, stored_model
from halcyon.weights.vectors import pooling_of
from halcyon_api.spec.families.section import ModelSection


def load(
    place: str,
    *,
    dtype: Any = None,
    weights: Weights = "model",
    mesh: Mesh | None = None,
    endpoint: str | None = None,
    region: str | None = None,
    images: bool = False,
) -> tuple[CausalLM, Tokenizer | None]:
    """Load a model and its tokenizer onto the default device.

    The vocabulary of the model has no padding.

    Args:
        place: ``ROOT`` or ``ROOT@STEP``: a checkpoint root (a directory, file://, s3:// or gs://), at its newest
            checkpoint or at a step. ``hf:DIR``: a folder with a model in the files of Hugging Face, on this machine or
            in a store. ``hf://OWNER/NAME``: the same on the hub, with the package ``huggingface_hub``.
        dtype: Type of the parameters. Default: that of the checkpoint or of the files. ``int8``: weights of linear maps
            and tables of tokens in 8 bits, for inference (`halcyon.models.int8`).
        mesh: The mesh among whose devices the model is divided (`halcyon.parallel.device_mesh.tensor_mesh`). None: one
            device has all of it.
        weights: ``model``: the parameters of a checkpoint. ``average``: their average, in a root of a run with
            ``spec.average``.
        endpoint: Address of an S3-compatible store other than AWS.
        region: Region of an S3 bucket.
        images: Whether the files of a model with images give all of it. Otherwise they give the text model.

    Returns:
        The model, and its tokenizer; None if the place has none that Halcyon reads. The tokenizer has the chat template
        of the model as ``chat_template``, for `halcyon.generate`; None: Halcyon's own, or none.

    Raises:
        BadConfiguration: The place is no model, or of a family that Halcyon does not have; or its tokenizer has more
            ids than the model has rows.
        NoValidCheckpoint: The checkpoint is damaged.
        TrainerExit: The store did not answer.
    """
    if weights not in get_args(Weights):
        raise ValueError(f"weights must be one of {', '.join(get_args(Weights))}, not {weights!r}")
    is_int8 = dtype is not None and jnp.dtype(dtype) == jnp.int8
    read_type = None if is_int8 else dtype
    if (folder := files_folder(place, endpoint, region)) is not None:
        if weights != "model":
            raise BadConfiguration(f"{place}: the files of Hugging Face hold one set of weights; leave weights out")
        model, tokenizer = _from_files(folder, read_type, mesh, images)
    else:
        root, step = split_step(place)
        model, tokenizer = _from_root(Store(root_place(root, endpoint, region)), step, read_type, weights, mesh)
    return quantized(model) if is_int8 else model, tokenizer


def logits(
    model: CausalLM, tokens: Any, *, sound: Any = None, images: Any = None, compute_dtype: Any = jnp.float32
) -> jax.Array:
    """Logits of the next token at every position.

    Args:
        model: A model of `load`.
        tokens: Integers [batch, position], rows of one length.
        sound: Features of a sound for each row, of a model that hears: float32 [batch, frame, mel].
        images: Pixels of the images of each row, of a model that sees: uint8 [batch, image, row, column, colour].
        compute_dtype: Type of activations and matrix products.

    Returns:
        float32 [batch, position, vocabulary], without padding.

    Raises:
        ValueError: `tokens` has another shape, an id that the model does not have, or more positions than the model.
        TypeError: `tokens` are no integers.
    """
    try:
        tokens = np.asarray(tokens)
    except ValueError:  # of NumPy, for rows that make no array
        raise ValueError(
            "tokens have rows of different length; fill the shorter rows at their end with any token: a position does "
            "not see those after it"
        ) from None
    if tokens.ndim != 2:
        raise ValueError(f"tokens have the shape {list(tokens.shape)}; give an array [batch, position]")
    if not np.issubdtype(tokens.dtype, np.integer):
        raise TypeError(f"tokens are of type {tokens.dtype}; give integers")
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < model.token_count:
        raise ValueError(f"tokens are ids of 0 to {model.token_count - 1}, not {tokens.min()} to {tokens.max()}")
    return _logits(model, jnp.asarray(tokens, jnp.int32), jnp.dtype(compute_dtype), {"sound": sound, "images": images})


@functools.partial(jax.jit, static_argnums=2)
def _logits(model: CausalLM, tokens: jax.Array, compute_dtype: jnp.dtype, beside: dict[str, Any]) -> jax.Array:
    given = {name: hax.named(array, BESIDE[name]) for name, array in beside.items() if array is not None}
    named = Inputs(hax.named(tokens, (BATCH, POSITION)), **given)
    computed = model.logits(model(named, compute_dtype=compute_dtype).features)
    return computed.rearrange((BATCH, POSITION, model.vocab.name)).array.astype(jnp.float32)


def _from_files(store: Store, dtype: Any, mesh: Mesh | None, images: bool) -> tuple[CausalLM, Tokenizer | None]:
    try:
        config = read_config(store, images=images)
        shapes = model_shapes(config.spec, config.tokens, config.positions)
        folder = ModelFolder(store, config, shapes, None if dtype is None else np.dtype(dtype))
        types = {path: leaf.dtype for path, leaf in folder.layout.leaves.items()}
        model = read_arrays(folder.read, shapes if mesh is None else with_mesh(shapes, mesh), types)
        files = read_companions(store)
        model = with_pooling(model, pooling_of(files))
        return model, _tokenizer(definition_of(files), template_of(files), model, store.root)
    except StoreFailure as failure:
        raise as_exit(failure, store.root, what="the folder", field="its address") from None


def _from_root(
    store: Store, step: int | None, dtype: Any, weights: Weights, mesh: Mesh | None
) -> tuple[CausalLM, Tokenizer | None]:
    try:
        stored = stored_model(store, entry_of(store, step), weights=weights)
        types = {path: np.dtype(dtype or leaf.dtype) for path, leaf in stored.arrays.leaves.items()}
        shapes = model_shapes(stored.spec, stored.tokens, stored.positions)
        model = read_arrays(stored.arrays.read, shapes if mesh is None else with_mesh(shapes, mesh), types)
        model = with_pooling(model, stored.pooling)
        return model, _tokenizer(stored.definition, template_of_run(stored.data, stored.files), model, store.root)
    except StoreFailure as failure:
        raise as_exit(failure, store.root, field="its address") from None
    except Damaged as damage:
        raise NoValidCheckpoint(f"{store.root}: {damage}") from None


def _tokenizer(
    definition: TokenizerDefinition | None, template: str | None, model: CausalLM, where: str
) -> Tokenizer | None:
    """The tokenizer with the chat template of the model, as `halcyon.generate` reads it.

    Raises:
        BadConfiguration: It has more ids than the model has rows.
    """
    if definition is None:
        return None
    try:
        found: Any = copy.copy(load_tokenizer(definition))  # of several models: each has a template of its own
    except BadConfiguration:
        return None
    check_rows(found.vocab_size, model.token_count, where)
    found.chat_template = template
    return found


def file_tensors(spec: ModelSection, tree: CausalLM) -> dict[str, np.ndarray]:
    """The arrays of a model by the names and shapes that they have in the files of Hugging Face.

    An export computes no value, it only moves them. So the same holds for a tree with the structure of a model: the
    gradient of an exported tensor has its name here. The gradient of a tied head is a part of that of the token
    embedding. Rows of padding are left out.

    Args:
        spec: ``spec.model`` of the run.
        tree: A model, its gradient, or its update: outside of ``jax.jit``.

    Returns:
        Arrays by name, in the order of layers and in the types of `tree`.

    Raises:
        BadConfiguration: The family has no form of Hugging Face.
        TypeError: `tree` is not of a model with this spec.
    """
    leaves = leaf_shapes(tree)
    layout = WeightLayout(published_of_section(spec).tensors(spec), leaves, {VOCAB: tree.token_count})
    arrays = [np.asarray(leaf.array) for leaf in jax.tree.leaves(tree, is_leaf=is_named)]
    by_path = {leaf.path: array for leaf, array in zip(leaves, arrays, strict=True)}

    def read(path: str, region: Region) -> np.ndarray:
        return by_path[path][region]

    return {name: tensor.values(read) for name, tensor in layout.tensors.items() if tensor.constant is None}
