"""Reads weights into the model of a run: from a folder with a model, or from a checkpoint.

Each process reads only the regions that its devices hold. The vocabulary of the run has the tokens of its tokenizer.
The weights may have more rows, which no token uses: these are left out. They may have fewer if the document lets the
vocabulary grow: a new row is the mean of all rows (Hewitt 2021, "Initializing new word embeddings for pretrained
language models"). Rows that only pad the run's vocabulary are zero. The document may also take only some parameters;
the others are not in the model that is read. Where the model holds codes of a weight, the weight is coded as it is
read, one layer after the other, so neither host nor devices hold the whole model in its own type.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from halcyon.checkpoint.layout import Leaf, Region, flatten, normal, shape_of, unflatten, whole, within
from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.store import Store
from halcyon.models import CausalLM
from halcyon.models.axes import POSITION, VOCAB
from halcyon.models.families.lookup import published_of_section
from halcyon.models.parameters import STACKED_AXES, dotted, matching, split
from halcyon.models.parts.coded import CODES, Coded, blocks_around, encoded, is_coded, without_codes
from halcyon.weights.companions import read_companions, with_base
from halcyon.weights.folder import ModelFolder, model_shapes, read_config, source_name
from halcyon.weights.further import read_further, with_further, without_further
from halcyon.weights.kept import KeptParts
from halcyon.weights.layout import ReadRegion, leaf_shapes
from halcyon.weights.peft_files import PeftFolder
from halcyon.weights.root import stored_model
from halcyon_api.checkpoint_documents import CommittedStep
from halcyon_api.spec.adapter import BASES
from halcyon_api.spec.families.custom import CustomSpec
from halcyon_api.spec.families.experts import ExpertsSection
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.origin import OriginSpec

FIELDS = "spec.from.huggingFace", "spec.model"
_NO_WEIGHT = (
    "initializer_range",
    "max_window_layers",  # layer_types says what it says
    "router_aux_loss_coef",
    "aux_loss_alpha",
    "num_nextn_predict_layers",  # only their own weights: `without_further`
    "image_size",
)
"""Entries of config.json that do not decide what a model with weights computes."""


@dataclass(frozen=True)
class Weights:
    """The model of a folder or of a checkpoint."""

    model: Any
    """With the shapes and shardings of the run's model without an adapter; None in the place of parameters that were
    not taken.
    """
    path: str
    """The place of the weights, for the log."""
    files: Mapping[str, bytes]
    """Files of the folder that the weights came from, by name, for a later export."""
    is_part: bool
    """Whether the model lacks parameters, because ``spec.from.only`` does not match them."""
    kept: KeptParts | None = None
    """Parts of the model in the folder that are not trained, for a later export."""
    note: str = ""
    """What the run trains otherwise than the files say; empty: nothing."""


def read_arrays(read: ReadRegion, template: Any, types: Mapping[str, np.dtype] | None = None) -> Any:
    """A model whose arrays have the shardings of the template. Reads the regions of this process's devices.

    Args:
        read: Reads a region of a parameter.
        template: Tree of ``jax.ShapeDtypeStruct``. A leaf without a sharding is read onto the default device.
        types: Types of the parameters by path. Default: those of the template.
    """
    arrays = []
    for leaf in flatten(template):
        part = _parts(read, leaf, leaf.dtype if types is None else types[leaf.path])
        if leaf.sharding is None:
            arrays.append(jnp.asarray(part(whole(leaf.shape))))
        else:
            arrays.append(jax.make_array_from_callback(leaf.shape, leaf.sharding, part))
    return unflatten(template, arrays)


def _parts(read: ReadRegion, leaf: Leaf, dtype: np.dtype) -> Callable[[Any], np.ndarray]:
    """A function that gives the part of a parameter at JAX's index of a shard.

    It reads one region for all devices of this process, because files are read in whole rows, which devices may share.
    If these devices do not fill a region, it reads the part of each.
    """
    sharding, full = leaf.sharding, whole(leaf.shape)
    indices = [full] if sharding is None else sharding.addressable_devices_indices_map(leaf.shape).values()
    regions = {str(region): region for region in (normal(index or full, leaf.shape) for index in indices)}.values()
    box = tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts))
        for parts in zip(*regions, strict=True)
    )
    filled = math.prod(shape_of(box)) <= sum(math.prod(shape_of(region)) for region in regions)
    held: dict[str, np.ndarray] = {}

    def part(index: Any) -> np.ndarray:
        region = normal(index, leaf.shape)
        source = box if filled else region
        if str(source) not in held:
            held[str(source)] = read(leaf.path, source)
        return held[str(source)][within(region, source)].astype(dtype)

    return part


def weights_of_folder(
    store: Store,
    origin: OriginSpec,
    spec: ModelSection,
    template: CausalLM,
    adapter: PeftFolder | None,
    fields: tuple[str, str] = FIELDS,
) -> Weights:
    """The weights of a folder with a model in the files of Hugging Face.

    Args:
        store: The folder.
        origin: ``spec.from`` of the run.
        spec: ``spec.model`` of the run.
        template: Shapes, types and shardings of the run's model without an adapter.
        adapter: A folder with an adapter of peft, which is added to the weights.
        fields: The fields that name the folder and the model.

    Raises:
        BadConfiguration: The weights are of another model, or cannot be read.
        StoreFailure: The store did not answer.
    """
    config = read_config(store, images=spec.sight is not None)
    tokens, plain, takes_all = template.token_count, jax.eval_shape(without_codes, template), origin.only is None
    _require_rows(tokens, config.tokens, store.root, origin, fields)
    dtype = None if config.narrow is None else np.dtype(np.float32)  # not rounded, so codes of the same form stay
    if takes_all:
        require_same(spec, config.spec, f"{fields[0]}: {store.root}", fields[1])
        is_whole, config = with_further(config, spec, plain, store)
        template, plain = (one if is_whole else without_further(one) for one in (template, plain))
        folder = ModelFolder(store, config, plain, dtype, adapter)
    else:
        is_whole = False
        shapes = model_shapes(config.spec, template.vocab.size, min(template.max_position.size, config.positions))
        folder = ModelFolder(store, config, shapes, dtype, adapter)
    taken = _taken(template, origin.only, {path: leaf.axes for path, leaf in folder.layout.leaves.items()}, store.root)
    place = origin.hugging_face.path if origin.hugging_face is not None else ""
    files = with_base(read_companions(store), source_name(place, store) if adapter is None and takes_all else None)
    read = with_codes(with_new_rows(folder.read, plain, config.tokens, tokens), taken, dtype)
    note = balance_note(spec, config.spec, store.root) if takes_all else ""
    if takes_all and spec.classes and not config.spec.classes:
        note = (
            f"the head of spec.model.labels begins with random numbers, and the output head in {store.root} is left out"
        )
    kept = folder.kept() if takes_all else None  # a model with only some parameters is another one
    return Weights(read_arrays(read, taken), store.root, files, is_part=not is_whole, kept=kept, note=note)


def balance_note(ours: ModelSection, theirs: ModelSection, root: str) -> str:
    """A sentence if a run has another factor of the routers' balance loss than the files of its weights; else empty."""
    mine, other = (getattr(one, "router_aux_loss_coef", 0.0) for one in (ours, theirs))
    if math.isclose(mine, other, rel_tol=1e-6):
        return ""
    return (
        f"spec.model.routerAuxLossCoef is {mine:g}, and {other:g} by the files in {root}; set it "
        "to that to train with their balance loss"
    )


def weights_of_checkpoint(
    store: Store, entry: CommittedStep, origin: OriginSpec, spec: ModelSection, template: CausalLM
) -> Weights:
    """The weights of a checkpoint; see `weights_of_folder`.

    Args:
        store: The root.
        entry: The checkpoint.
        origin: ``spec.from`` of the run.
        spec: ``spec.model`` of the run.
        template: Shapes, types and shardings of the run's model without an adapter.

    Raises:
        Damaged: The checkpoint is damaged.
    """
    stored, tokens = stored_model(store, entry), template.token_count
    plain = jax.eval_shape(without_codes, template)
    if origin.only is None:
        require_same(spec, stored.spec, f"spec.from: the checkpoint in {store.root}")
    _require_rows(tokens, stored.tokens, store.root, origin)
    there = {path: dict(zip(leaf.axes or (), leaf.shape, strict=True)) for path, leaf in stored.arrays.leaves.items()}
    taken = _taken(template, origin.only, there, store.root)
    read, is_whole = (stored.arrays.read, False) if origin.only is not None else read_further(spec, stored, plain)
    taken = taken if is_whole or origin.only is not None else without_further(taken)
    for leaf in leaf_shapes(taken):
        if leaf.axes.get(POSITION, 0) > stored.positions:
            raise BadConfiguration(
                f"spec.trainer.sequenceLength: the model in {store.root} has learned positions for {stored.positions} "
                "tokens; set it to at most that"
            )
    read = with_codes(with_new_rows(read, plain, stored.tokens, tokens), taken)
    files = stored.files if entry.step == 0 and origin.only is None else with_base(stored.files, None)
    return Weights(read_arrays(read, taken), entry.path, files, is_part=not is_whole)


def _taken(
    template: CausalLM, patterns: Sequence[str] | None, there: Mapping[str, Mapping[str, int]], root: str
) -> CausalLM:
    """The template with None in the place of parameters that are not taken.

    Args:
        template: Shapes of the run's model.
        patterns: ``spec.from.only``. None: everything is taken.
        there: The sizes of the axes of each parameter of the weights, by its path.
        root: The place of the weights.

    Raises:
        BadConfiguration: A pattern matches nothing, or a parameter has another shape in the weights.
    """
    if patterns is None:
        return template
    ours = {leaf.path: leaf for leaf in leaf_shapes(template)}
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in ours):
            raise BadConfiguration(
                f"spec.from.only: {pattern!r} matches no parameter of the model, such as {next(iter(ours))}; correct it"
            )
    for path, leaf in ours.items():
        if any(fnmatchcase(path, pattern) for pattern in patterns):
            # The axes that must be the same in the weights. Vocabulary and positions may differ.
            here, other = (
                {name: size for name, size in axes.items() if name not in (VOCAB, POSITION)}
                for axes in (leaf.axes, there.get(path, {}))
            )
            if here != other:
                raise BadConfiguration(
                    f"spec.from.only: {path} has the axes {here} in spec.model, and {other or 'no place'} in {root}; "
                    "give the model the same sizes, or leave the parameter out of the patterns"
                )
    return split(template, matching(template, patterns))[0]


def with_new_rows(read: ReadRegion, template: CausalLM, rows: int, tokens: int) -> ReadRegion:
    """`read`, with the mean of all rows in the place of the rows of tokens that the weights lack.

    Args:
        read: Reads a region of a parameter of the weights.
        template: Shapes of the run's model.
        rows: Tokens of the weights.
        tokens: Tokens of the run.
    """
    if tokens <= rows:
        return read
    leaves = {leaf.path: leaf for leaf in leaf_shapes(template)}

    def grown(path: str, region: Region) -> np.ndarray:
        names = tuple(leaves[path].axes)
        values = read(path, region)
        if VOCAB not in names:
            return values
        at = names.index(VOCAB)
        first, end = max(region[at].start, rows), min(region[at].stop, tokens)
        if first >= end:
            return values
        old = read(path, (*region[:at], slice(0, rows), *region[at + 1 :])).astype(np.float32)
        new = (slice(None),) * at + (slice(first - region[at].start, end - region[at].start),)
        values = values.copy()
        values[new] = old.mean(at, keepdims=True).astype(values.dtype)
        return values

    return grown


def with_codes(read: ReadRegion, template: Any, dtype: np.dtype | None = None) -> ReadRegion:
    """`read`, with the codes and scales of weights that the template holds so, made from the weights.

    Args:
        read: Reads a region of a weight.
        template: Shapes of the run's model.
        dtype: The type from which weights are coded. None: that of the template.
    """
    found: Any = jax.tree_util.tree_flatten_with_path(template, is_leaf=is_coded)[0]
    coded: dict[str, Coded] = {dotted(path): node for path, node in found if is_coded(node)}
    last: dict[str, tuple[np.ndarray, ...]] = {}  # codes and scales are read one after the other

    def part(path: str, region: Region) -> np.ndarray:
        owner, _, end = path.rpartition(".")
        if owner not in coded:
            return read(path, region)
        weight = coded[owner]
        names, form = weight.codes.axis_names, BASES[weight.base]
        at = names.index(weight.inputs[-1].name)
        of, inside = blocks_around(weight.base, region, at, form.per_element if end == CODES else form.block)
        blocks = of(1)
        step = 1 if names[0] in STACKED_AXES else max(blocks[0].stop - blocks[0].start, 1)
        key = f"{owner} {blocks}"
        if key not in last:
            pieces = (
                encoded(
                    weight.base,
                    read(owner, (slice(number, number + step), *blocks[1:])).astype(dtype or weight.dtype),
                    at,
                )
                for number in range(blocks[0].start, blocks[0].stop, step)
            )
            last.clear()
            last[key] = tuple(np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
        return last[key][end != CODES][inside]

    return part


def require_same(ours: ModelSection, theirs: ModelSection, what: str, field: str = FIELDS[1]) -> None:
    """Compare two models by the entries of their config.json: what the weights need to be the same model.

    A custom model has no config.json, so the whole of ``spec.model`` must be the same.

    Args:
        ours: ``spec.model`` of the run.
        theirs: The model of the weights.
        what: The place of the weights, for the message.
        field: The field of `ours`.

    Raises:
        BadConfiguration: They differ; the message names the entry.
    """
    if ours.document() == theirs.document():
        return
    if ours.family != theirs.family:
        raise BadConfiguration(
            f"{what} holds a model of the family {theirs.family}, and {field} is {ours.family}; set "
            f"{field}.family to {theirs.family}"
        )
    if isinstance(ours, CustomSpec):
        raise BadConfiguration(f"{what} holds another custom model; set {field} to it, {theirs.document()}")
    if theirs.classes and ours.classes != theirs.classes:
        raise BadConfiguration(
            f"{what} holds a model with the labels {', '.join(theirs.classes)}; set {field}.labels to them"
        )
    form = published_of_section(ours)
    here, there = form.write(ours, 1), form.write(theirs, 1)
    unused, experts = _NO_WEIGHT, ours.experts() if isinstance(ours, ExpertsSection) else None
    if experts is not None and all(experts.with_experts) and experts.mlp_field != "intermediateSize":
        unused += ("intermediate_size",)  # the width of MLPs in a model whose layers all have experts
    for name in (*here, *(there.keys() - here.keys())):
        if here.get(name) != there.get(name) and name not in unused:
            raise BadConfiguration(
                f"{what} holds another model: {name} is {there.get(name)} there, and {here.get(name)} by {field}; "
                "set it to the same value"
            )


def _require_rows(tokens: int, rows: int, root: str, origin: OriginSpec, fields: tuple[str, str] = FIELDS) -> None:
    if tokens > rows and not origin.grow_vocabulary:
        raise BadConfiguration(
            f"spec.tokenizer: it has {tokens} tokens, but the model in {root} knows only {rows}; take the tokenizer of "
            f"that model, or {'set spec.from.growVocabulary' if fields == FIELDS else f'another one in {fields[0]}'}"
        )
