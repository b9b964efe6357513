"""Writes the adapter of a checkpoint in the files of the library ``peft`` (`halcyon.weights.peft_files` has their
form).

Where a tensor of the model holds several of our weights (queries, keys and values in one), the module gets one adapter:
its A has the rows of all of ours, one after the other, and its B has the blocks of ours on the diagonal. Its rank is
the sum of ours, and ``rank_pattern`` and ``alpha_pattern`` give it the same scale.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.store import Store
from halcyon.models.axes import RANK
from halcyon.models.families.lookup import published_of_section
from halcyon.tokenizer.side_files import CONFIG_KEY as MODEL_CONFIG_KEY
from halcyon.tokenizer.side_files import json_object
from halcyon.weights.companions import BASE, encode
from halcyon.weights.exporting import export_layout, tokenizer_files
from halcyon.weights.folder import HUB
from halcyon.weights.layout import FileTensor, View
from halcyon.weights.peft_config import CONFIG_KEY
from halcyon.weights.peft_files import DOWN_END, MAGNITUDE_END, PREFIX, TENSORS_KEY, UP_END, WEIGHT_END
from halcyon.weights.root import DOWN, MAGNITUDE, UP, Factor, MergedArrays, StoredModel
from halcyon.weights.safetensors import is_finite, write_header
from halcyon_api.spec.adapter import LoraSpec


@dataclass(frozen=True)
class Module:
    """The adapter of one module, in the form of peft.

    Attributes:
        name: Name of the module in transformers.
        down: A: float32 [rank, inputs].
        up: B: float32 [outputs, rank].
        magnitude: float32 [outputs]. None: no DoRA.
        transposed: Whether the weight of the module is [inputs, outputs].
    """

    name: str
    down: np.ndarray
    up: np.ndarray
    magnitude: np.ndarray | None
    transposed: bool


def export_adapter(stored: StoredModel, to: Store) -> tuple[str, ...]:
    """Write the adapter of a checkpoint into a folder, and return the names of its modules. adapter_config.json comes
    last.

    The folder also has the tokenizer, the chat template and the settings of generation of the run, which may differ
    from those of the base model.

    Args:
        stored: The model of a run with an adapter.
        to: The folder.

    Raises:
        BadConfiguration: The run had no adapter, trained more than that, or peft has no form for it; or the folder
            holds an adapter or a tokenizer; or a factor has NaN or infinite numbers.
        Damaged: A file of the checkpoint is damaged.
        StoreFailure: A store did not answer.
    """
    arrays = stored.merged
    if arrays is None:
        raise BadConfiguration(
            "--adapter: the run of this checkpoint has no spec.adapter; leave --adapter out to export its model"
        )
    also = [*arrays.lora.train_also, *(["score"] if stored.spec.classes else [])]
    if also:
        raise BadConfiguration(
            f"--adapter: the run trained {', '.join(also)} too, which an adapter's files do not "
            "hold; leave --adapter out to export the whole model"
        )
    if to.list(CONFIG_KEY) or to.list(TENSORS_KEY):
        raise BadConfiguration(f"{to.root} holds an adapter already; give a folder that is empty")
    form = published_of_section(stored.spec)
    beside, _ = tokenizer_files(stored, form)
    if taken := beside.keys() & {*to.list("")}:
        raise BadConfiguration(f"{to.root} holds {min(taken)} already; give a folder that is empty")
    layout = export_layout(stored, form, None).tensors.values()
    adapted = [tensor for tensor in layout if any(view.leaf.path in arrays.adapters for view in tensor.views)]
    modules = [_module(tensor, arrays) for tensor in adapted]
    parts = {
        f"{PREFIX}{module.name}{end}": values
        for module in modules
        for end, values in ((DOWN_END, module.down), (UP_END, module.up), (MAGNITUDE_END, module.magnitude))
    }
    tensors = {name: values for name, values in sorted(parts.items()) if values is not None}
    header = write_header([(name, values.dtype, values.shape) for name, values in tensors.items()])
    for name, values in tensors.items():
        if not is_finite(values):
            raise BadConfiguration(
                f"the tensor {name} has NaN or infinite numbers in the checkpoint of step {arrays.entry.step}; export "
                "an earlier step"
            )
    to.write(TENSORS_KEY, b"".join((header, *(np.ascontiguousarray(values).tobytes() for values in tensors.values()))))
    for name, data in beside.items():
        to.write(name, data)
    every = {
        one.name.removesuffix(WEIGHT_END) for one in layout if len(one.shape) == 2 and one.name.endswith(WEIGHT_END)
    }
    base = json_object(stored.files, MODEL_CONFIG_KEY).get(BASE)
    to.write(CONFIG_KEY, encode(adapter_config(arrays.lora, modules, every, base if isinstance(base, str) else "")))
    return tuple(one.name for one in modules)


def adapter_config(lora: LoraSpec, modules: Sequence[Module], every: set[str], base: str) -> dict[str, Any]:
    """The contents of adapter_config.json.

    Args:
        lora: ``spec.adapter.lora`` of the run.
        modules: The adapted modules.
        every: Names of all modules that could be adapted.
        base: The model in files that the run began with; empty: it began with none.
    """
    # A revision belongs to a model of the hub.
    name, _, revision = base.removeprefix(HUB).partition("@") if base.startswith(HUB) else (base, "", "")
    adapted = {one.name for one in modules}
    last = {
        name: {other for other in every if other.rpartition(".")[2] == name}
        for name in {one.rpartition(".")[2] for one in adapted}
    }
    # The last part of a name, if it means the same modules: peft compares it with the ends of names.
    short = {name for name, same in last.items() if same <= adapted}
    targets = sorted(short | {name for name in adapted if name.rpartition(".")[2] not in short})
    # Without the first part of the name: older versions of peft want something before the pattern.
    fused = {
        one.name.partition(".")[2] or one.name: len(one.down) // lora.rank
        for one in modules
        if len(one.down) != lora.rank
    }
    factor = {count: math.sqrt(count) if lora.rs_lora else count for count in set(fused.values())}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name or None,
        "revision": revision or None,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": targets,
        "rank_pattern": {re.escape(name): count * lora.rank for name, count in sorted(fused.items())},
        "alpha_pattern": {re.escape(name): factor[count] * lora.alpha for name, count in sorted(fused.items())},
        "use_rslora": lora.rs_lora,
        "use_dora": lora.dora,
        "fan_in_fan_out": any(one.transposed for one in modules),
        "bias": "none",
        "modules_to_save": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "init_lora_weights": True,
    }


def _module(tensor: FileTensor, arrays: MergedArrays) -> Module:
    views = tensor.views
    adapted = [view for view in views if view.leaf.path in arrays.adapters]
    inputs = arrays.inputs(adapted[0].leaf.path)
    sides = [number for number, names in enumerate(views[0].piece.dimensions) if set(names) == inputs]
    joined = views[0].join if len(views) > 1 else None
    if (
        len(tensor.shape) != 2
        or not tensor.name.endswith(WEIGHT_END)
        or not sides
        or (joined and joined.dimension == sides[0])
    ):
        raise BadConfiguration(
            f"--adapter: peft has no form for an adapter of {tensor.name}, which is no linear map of its own; leave "
            "--adapter out to export the model with the adapter added to its weights"
        )
    at = 1 - sides[0]
    outputs = tensor.shape[at]
    within = joined.within if joined else 0
    rank, downs = arrays.lora.rank, []
    up = np.zeros((outputs, rank * len(adapted)), np.float32)
    magnitude = np.zeros(outputs, np.float32) if arrays.lora.dora else None

    def rows(array: np.ndarray, view: View) -> np.ndarray:
        """The outputs of a view in an array of all outputs: [shared, own, ...]."""
        return view.cut(array, 0) if joined else array[None]

    for view in views:
        names = view.piece.dimensions[at]
        shared, own = names[:within], names[within:]
        if view in adapted:
            owner = arrays.adapters[view.leaf.path]
            columns = slice(rank * len(downs), rank * (len(downs) + 1))
            downs.append(_arranged(view, arrays, f"{owner}.{DOWN}", [RANK], view.piece.dimensions[sides[0]]))
            rows(up, view)[:, :, columns] = _arranged(view, arrays, f"{owner}.{UP}", shared, own, [RANK])
            if magnitude is not None:
                rows(magnitude, view)[...] = _arranged(view, arrays, f"{owner}.{MAGNITUDE}", shared, own)
        elif magnitude is not None:  # the lengths of the columns, which change nothing
            weight = _arranged(view, arrays, view.leaf.path, shared, own, view.piece.dimensions[sides[0]])
            rows(magnitude, view)[...] = np.sqrt(np.sum(weight * weight, -1))
    return Module(tensor.name.removesuffix(WEIGHT_END), np.concatenate(downs), up, magnitude, transposed=at == 1)


def _arranged(view: View, arrays: MergedArrays, path: str, *groups: Sequence[str]) -> np.ndarray:
    """An array of the checkpoint for the layer of a view: one dimension for each group of axes, in the order of the
    file; float32.
    """
    leaf = arrays.stored[path]
    names = leaf.axes or ()
    region = tuple(
        slice(view.fixed[name], view.fixed[name] + 1) if name in view.fixed else slice(0, size)
        for name, size in zip(names, leaf.shape, strict=True)
    )
    values = arrays.read_stored(path, region).astype(np.float32)
    free = {name: size for name, size in zip(names, values.shape, strict=True) if name not in view.fixed}
    values = view.in_order_of_file(values.reshape(list(free.values())), tuple(free))
    return Factor(tuple(free), values).ordered(*groups)
