"""Begins a run with weights alone: from a folder with a model, or from a checkpoint that an import made. The optimizer starts fresh.

Each process reads only the regions that its devices hold. The vocabulary of the run has the tokens of its tokenizer. The weights may have
more rows, which no token uses: these are left out. They may have fewer if the document lets the vocabulary grow: a new row is the mean of
all rows (Hewitt 2021, "Initializing new word embeddings for pretrained language models"). Rows that only pad the run's vocabulary are zero.
The document may also take only some parameters; the others are not in the model that is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from halcyon.checkpoint.layout import Leaf, Region, flatten, normal, unflatten, whole
from halcyon.checkpoint.origin import begin_from, candidates, origin_store
from halcyon.checkpoint.processes import Processes, decide, gather_texts
from halcyon.checkpoint.results import Restored
from halcyon.checkpoint.verify import Damaged, read_manifest
from halcyon.checkpoint.weights import MODEL_PREFIX
from halcyon.errors import BadConfiguration, DataUnreachable, NoValidCheckpoint, RunChanged, TrainerExit
from halcyon.huggingface.companions import CONFIG_KEY, read_companions
from halcyon.huggingface.folder import ModelFolder, folder_place, read_config
from halcyon.huggingface.layout import ReadRegion, leaf_shapes
from halcyon.huggingface.peft_files import PeftFolder
from halcyon.huggingface.root import stored_model
from halcyon.models import CausalLM
from halcyon.models.adapters import without_adapter
from halcyon.models.axes import POSITION, VOCAB
from halcyon.models.families.lookup import form_of_section
from halcyon.models.trainable import matching, split
from halcyon.storage.failures import StoreFailure, as_exit
from halcyon.storage.retry_budget import RetryBudget
from halcyon.storage.store import Store
from halcyon_api.checkpoint_documents import HUGGING_FACE_PREFIX, CommittedStep, Fingerprints, Owner, SkippedBatches
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.spec.families.experts import ExpertsSection
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.model import ModelSpec
from halcyon_api.spec.origin import OriginSpec
from halcyon_api.training_run import TrainingRunSpec

Result = TypeVar("Result")
_NO_WEIGHT = (
    "initializer_range",
    "max_window_layers",  # layer_types says what it says
    "router_aux_loss_coef",
)
"""Entries of config.json that do not decide what a model with weights computes."""


@dataclass(frozen=True)
class Begun:
    """What a run begins with.

    Attributes:
        step: Steps done.
        state: The whole state; None if there are only weights.
        model: The model without an adapter, if there are only weights; None in the place of parameters that were not taken.
        path: The place of the weights, for the log.
        files: Files of the folder that the weights came from, by name, for a later export.
        past: See `Restored.past`.
    """

    step: int
    state: Any
    model: Any
    path: str
    files: Mapping[str, bytes]
    is_part: bool = False
    """Whether the model lacks parameters, because ``spec.from.only`` does not match them."""
    past: tuple[SkippedBatches, ...] = ()


def begin(
    spec: TrainingRunSpec,
    origin: OriginSpec,
    *,
    owner: Owner,
    fingerprints: Fingerprints,
    processes: Processes,
    template: Any,
    without_average: Any = None,
    tokens: int,
    retry_budget: RetryBudget | None = None,
) -> Begun:
    """Read what ``spec.from`` names. A collective, for the main thread.

    Args:
        spec: The run's spec.
        origin: ``spec.from``.
        owner: The run.
        fingerprints: Fingerprints of the run.
        processes: The processes.
        template: Shapes, types and shardings of the run's state.
        without_average: The template without its average of the parameters, for another run that has no such average.
        tokens: Tokens of the run's tokenizer.
        retry_budget: The waits for stores that deny access.

    Raises:
        BadConfiguration: The weights are of another model, or cannot be read.
        DataUnreachable: The hub does not answer, or denies access.
        TrainerExit: See `begin_from`.
    """
    if origin.hugging_face is not None:
        own = spec.checkpoint
        s3 = origin.hugging_face.path.startswith("s3://")
        path, endpoint, region = origin.hugging_face.path, own.endpoint if s3 else None, own.region if s3 else None
        place = _together(processes, path, lambda: folder_place(path, endpoint, region))  # downloads a model of the hub
        store = Store(place, retry_budget=retry_budget)
        base, beside = without_adapter(template.model), origin.hugging_face.adapter
        adapter = None if beside is None else _together(processes, beside, lambda: _peft_folder(beside, own))
        return _together(processes, store.root, lambda: _from_folder(store, origin, spec.model, base, tokens, adapter))
    store = origin_store(origin, spec.checkpoint, retry_budget=retry_budget)
    weights = read_weights(spec, origin, store, owner=owner, processes=processes, template=template.model, tokens=tokens)
    if weights is None and (origin.only is not None or origin.grow_vocabulary):
        field = "only" if origin.only is not None else "growVocabulary"
        raise BadConfiguration(
            f"spec.from.{field}: the checkpoint of run {origin.run} is a whole training, whose optimizer state fits only to the same "
            "parameters; set spec.from.weightsOnly to take only its weights"
        )
    if weights is not None:
        return weights[1]
    restored: Restored = begin_from(
        origin, store, owner=owner, fingerprints=fingerprints, steps=spec.trainer.steps, processes=processes, template=template,
        without_average=without_average,
    )  # fmt: skip
    files = _together(processes, store.root, lambda: read_companions(store, HUGGING_FACE_PREFIX))
    return Begun(restored.step, restored.state, None, restored.checkpoint.path, files, past=restored.past)


def read_weights(
    spec: TrainingRunSpec, origin: OriginSpec, store: Store, *, owner: Owner, processes: Processes, template: CausalLM, tokens: int
) -> tuple[CommittedStep, Begun] | None:
    """The model of a checkpoint that holds only weights, as an import or an average makes it, or of which only the weights are wanted.

    A collective, for the main thread.

    Args:
        spec: The run's spec.
        origin: ``spec.from``, which names a run.
        store: The root of that run.
        owner: The run.
        processes: The processes.
        template: Shapes, types and shardings of the run's model.
        tokens: Tokens of the run's tokenizer.

    Returns:
        The checkpoint and its model; None: the checkpoint holds a whole state.

    Raises:
        BadConfiguration: The weights are of another model, or cannot be read.
        TrainerExit: The checkpoint is damaged, or there is none; see `begin_from`.
    """
    found = decide(processes, store.root, lambda: _imported(origin, store, owner))["entry"]
    if found is None:
        return None
    entry = CommittedStep.model_validate(found)
    return entry, _together(processes, store.root, lambda: _from_root(store, entry, origin, spec.model, without_adapter(template), tokens))


def read_arrays(read: ReadRegion, template: Any, types: Mapping[str, np.dtype] | None = None) -> Any:
    """A model whose arrays have the shardings of the template. Reads the regions of this process's devices.

    Args:
        read: Reads a region of a parameter.
        template: Tree of ``jax.ShapeDtypeStruct``. A leaf without a sharding is read onto the default device.
        types: Types of the parameters by path. Default: those of the template.
    """
    arrays: list[Any] = []
    for leaf in flatten(template):
        part = _parts(read, leaf, leaf.dtype if types is None else types[leaf.path])
        if leaf.sharding is None:
            arrays.append(jnp.asarray(part((slice(None),) * len(leaf.shape))))
        else:
            arrays.append(jax.make_array_from_callback(leaf.shape, leaf.sharding, part))
    return unflatten(template, arrays)


def _parts(read: ReadRegion, leaf: Leaf, dtype: np.dtype) -> Callable[[Any], np.ndarray]:
    """A function that gives the part of a parameter at JAX's index of a shard.

    It reads one region for all devices of this process, because files are read in whole rows, which devices may share. If these devices
    do not fill a region, it reads the part of each.
    """
    sharding, full = leaf.sharding, whole(leaf.shape)
    indices = [full] if sharding is None else sharding.addressable_devices_indices_map(leaf.shape).values()
    regions = {str(region): region for region in (normal(index or full, leaf.shape) for index in indices)}.values()
    box = tuple(slice(min(part.start for part in parts), max(part.stop for part in parts)) for parts in zip(*regions, strict=True))
    filled = _elements(box) <= sum(map(_elements, regions))
    held: dict[str, np.ndarray] = {}

    def part(index: Any) -> np.ndarray:
        region = normal(index, leaf.shape)
        source = box if filled else region
        if str(source) not in held:
            held[str(source)] = read(leaf.path, source)
        cut = tuple(slice(one.start - own.start, one.stop - own.start) for one, own in zip(region, source, strict=True))
        return held[str(source)][cut].astype(dtype)

    return part


def _elements(region: Region) -> int:
    return math.prod(part.stop - part.start for part in region)


def _from_folder(store: Store, origin: OriginSpec, spec: ModelSpec, template: CausalLM, tokens: int, adapter: PeftFolder | None) -> Begun:
    config = read_config(store)
    _require_rows(tokens, config.tokens, store.root, origin)
    if origin.only is None:
        require_same(spec, config.spec, f"spec.from.huggingFace: {store.root}")
        folder = ModelFolder(store, config, template, adapter=adapter)
    else:
        shapes = config.shapes(template.vocab.size, min(template.max_position.size, config.positions))
        folder = ModelFolder(store, config, shapes, adapter=adapter)
    taken = _taken(template, origin.only, {path: leaf.axes for path, leaf in folder.leaves.items()}, store.root)
    files = {**read_companions(store), CONFIG_KEY: store.read(CONFIG_KEY).data or b""}
    read = with_new_rows(folder.read, template, config.tokens, tokens)
    return Begun(0, None, read_arrays(read, taken), store.root, files, is_part=origin.only is not None)


def _peft_folder(path: str, own: CheckpointSpec) -> PeftFolder:
    s3 = path.startswith("s3://")
    return PeftFolder(Store(folder_place(path, own.endpoint if s3 else None, own.region if s3 else None)))


def _imported(origin: OriginSpec, store: Store, owner: Owner) -> dict[str, Any]:
    """The checkpoint to begin from, if it holds only weights, or only these are wanted."""
    for entry in candidates(origin, store, owner):
        try:
            manifest = read_manifest(store, entry)
        except Damaged:
            continue
        only_weights = origin.takes_weights or all(leaf.path.startswith(MODEL_PREFIX) for leaf in manifest.leaves)
        return {"entry": entry.document() if only_weights else None}
    return {"entry": None}


def _from_root(store: Store, entry: CommittedStep, origin: OriginSpec, spec: ModelSpec, template: CausalLM, tokens: int) -> Begun:
    stored = stored_model(store, entry)
    if origin.only is None:
        require_same(spec, stored.spec, f"spec.from: the checkpoint in {store.root}")
    _require_rows(tokens, stored.tokens, store.root, origin)
    there = {path: dict(zip(leaf.axes or (), leaf.shape, strict=True)) for path, leaf in stored.arrays.leaves.items()}
    taken = _taken(template, origin.only, there, store.root)
    for leaf in leaf_shapes(taken):
        if leaf.axes.get(POSITION, 0) > stored.positions:
            raise BadConfiguration(
                f"spec.trainer.sequenceLength: the model in {store.root} has learned positions for {stored.positions} tokens; set it to at "
                "most that"
            )
    read = with_new_rows(stored.arrays.read, template, stored.tokens, tokens)
    return Begun(0, None, read_arrays(read, taken), entry.path, stored.files, is_part=origin.only is not None)


def _taken(template: CausalLM, patterns: Sequence[str] | None, there: Mapping[str, Mapping[str, int]], root: str) -> CausalLM:
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
            raise BadConfiguration(f"spec.from.only: {pattern!r} matches no parameter of the model, such as {next(iter(ours))}; correct it")
    for path, leaf in ours.items():
        if any(fnmatchcase(path, pattern) for pattern in patterns):
            here, other = _fixed_sizes(leaf.axes), _fixed_sizes(there.get(path))
            if here != other:
                raise BadConfiguration(
                    f"spec.from.only: {path} has the axes {here} in spec.model, and {other or 'no place'} in {root}; give the model the "
                    "same sizes, or leave the parameter out of the patterns"
                )
    return split(template, matching(template, patterns))[0]


def _fixed_sizes(axes: Mapping[str, int] | None) -> dict[str, int]:
    """The axes of a parameter that must be the same in the weights. Vocabulary and positions may differ."""
    return {name: size for name, size in (axes or {}).items() if name not in (VOCAB, POSITION)}


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


def require_same(ours: ModelSpec, theirs: ModelSpec, what: str) -> None:
    """Compare two models by the entries of their config.json: what the weights need to be the same model.

    A custom model has no config.json, so its whole section must be the same.

    Args:
        ours: ``spec.model`` of the run.
        theirs: The model of the weights.
        what: The place of the weights, for the message.

    Raises:
        BadConfiguration: They differ; the message names the entry.
    """
    if ours.document() == theirs.document():
        return
    if type(ours.value) is not type(theirs.value):
        raise BadConfiguration(
            f"{what} holds a model of the kind {theirs.kind}, and spec.model is {ours.kind}; set spec.model.{theirs.kind}"
        )
    if ours.custom is not None:
        raise BadConfiguration(f"{what} holds another custom model; set spec.model.custom to its section, {theirs.document()['custom']}")
    section = ours.value
    assert isinstance(section, ModelSection)  # noqa: S101 - the members of ModelSpec are sections
    form = form_of_section(section)
    here, there = form.write(section, 1), form.write(theirs.value, 1)
    unused = (*_NO_WEIGHT, *_unused_sizes(section))
    for name in (*here, *(there.keys() - here.keys())):
        if here.get(name) != there.get(name) and name not in unused:
            raise BadConfiguration(
                f"{what} holds another model: {name} is {there.get(name)} there, and {here.get(name)} by spec.model.{ours.kind}; set it to "
                "the same value"
            )


def _unused_sizes(section: ModelSection) -> tuple[str, ...]:
    """The width of MLPs in a model whose layers all have experts."""
    experts = section.experts() if isinstance(section, ExpertsSection) else None
    return ("intermediate_size",) if experts is not None and all(experts.with_experts) and experts.mlp_field != "intermediateSize" else ()


def _require_rows(tokens: int, rows: int, root: str, origin: OriginSpec) -> None:
    if tokens > rows and not origin.grow_vocabulary:
        raise BadConfiguration(
            f"spec.tokenizer: it has {tokens} tokens, but the model in {root} knows only {rows}; take the tokenizer of that model, or set "
            "spec.from.growVocabulary"
        )


_KINDS: tuple[type[TrainerExit], ...] = (BadConfiguration, DataUnreachable, NoValidCheckpoint, RunChanged, TrainerExit)


def _together(processes: Processes, root: str, work: Callable[[], Result]) -> Result:
    """Run `work` on every process. If it fails on one, every process raises the same error. A collective."""
    result: Result | None = None
    try:
        result, text = work(), ""
    except Damaged as damage:
        text = f"NoValidCheckpoint {root}: {damage}"
    except StoreFailure as failure:
        text = f"StoreFailure {failure.code} {failure.text}"
    except TrainerExit as error:
        text = f"{next(kind for kind in _KINDS if isinstance(error, kind)).__name__} {error}"
    for found in gather_texts(processes, text):
        kind, _, message = found.partition(" ")
        if kind == "StoreFailure":
            code, _, message = message.partition(" ")
            raise as_exit(StoreFailure(code, message), root, what="the folder", field="spec.from")
        if kind:
            raise next(one for one in _KINDS if one.__name__ == kind)(message)
    return result  # type: ignore[return-value]
