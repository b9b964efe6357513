"""Reads an adapter in the files of the library ``peft``, and adds it to the tensors of its model.

A module of the model in transformers has ``lora_A.weight`` [rank, inputs] and ``lora_B.weight`` [outputs, rank], and
with DoRA ``lora_magnitude_vector`` [outputs]; names begin with ``base_model.model.``. The sources are
``save_and_load.py`` and ``tuners/lora`` of https://github.com/huggingface/peft. `halcyon.weights.peft` writes these
files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.store import Store
from halcyon.models import CausalLM
from halcyon.models.adapters import adaptable
from halcyon.weights.layout import WeightLayout
from halcyon.weights.peft_config import CONFIG_KEY, AdapterConfig, read_adapter_config
from halcyon.weights.safetensors import TensorFiles, is_finite, unreadable

TENSORS_KEY = "adapter_model.safetensors"
PREFIX = "base_model.model."
WEIGHT_END = ".weight"
DOWN_END, UP_END, MAGNITUDE_END = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
"""Ends of the names of an adapter's tensors."""
_PICKLED = "adapter_model.bin"
_EMBEDDING = ".lora_embedding_"


class PeftFolder:
    """An adapter in the files of peft.

    Args:
        store: The folder.

    Raises:
        BadConfiguration: It is no adapter, or of a kind that Halcyon does not compute.
        StoreFailure: The store did not answer.
    """

    def __init__(self, store: Store) -> None:
        self.where = store.root
        """The folder, for messages."""
        self.config = _config(store)
        self._files = TensorFiles(store, single=TENSORS_KEY)
        for name, tensor in self._files.tensors.items():
            if not tensor.is_readable:
                raise unreadable(name, tensor.file, tensor.type)
        self.modules = sorted({_module_name(name, store.root) for name in self._files.tensors})
        """Names of the adapted modules in transformers."""
        if not self.modules:
            raise BadConfiguration(f"{store.root}/{TENSORS_KEY} has no tensors; copy the files of the adapter again")
        for module in self.modules:
            self._check(module)

    def tensor(self, module: str, kind: str) -> np.ndarray:
        """A tensor of a module in float32, by the end of its name.

        Raises:
            BadConfiguration: It has NaN or infinite numbers.
            StoreFailure: The store did not answer.
        """
        name = f"{PREFIX}{module}{kind}"
        values = self._files.rows(name, 0, self._files.tensors[name].shape[0])
        if not is_finite(values):
            raise BadConfiguration(
                f"{self.where}/{TENSORS_KEY}: {name} has NaN or infinite numbers; take another adapter"
            )
        return values.astype(np.float32)

    def fitted(self, layout: WeightLayout, shapes: CausalLM) -> FittedAdapter:
        """The adapter on the tensors of its model. Reads all tensors of the adapter, to find NaN and infinite numbers.

        Args:
            layout: The tensors of the model.
            shapes: The model.

        Raises:
            BadConfiguration: The model lacks a module, or its weight has another shape; or see `tensor`.
            StoreFailure: The store did not answer.
        """
        found: dict[str, _Weight] = {}
        inputs_of = {path: {axis.name for axis in axes} for path, (_, axes, _) in adaptable(shapes)}
        for module in self.modules:
            name = None
            with contextlib.suppress(BadConfiguration):
                name = layout.canonical(f"{module}{WEIGHT_END}")
            (rank, inputs), (outputs, _) = (
                self._files.tensors[f"{PREFIX}{module}{kind}"].shape for kind in (DOWN_END, UP_END)
            )
            if name is None:
                raise BadConfiguration(
                    f"{self.where}: the adapter has the module {module}, and the model has no weight of its own there; "
                    "give the model that the adapter was trained with"
                )
            shape, views = layout.tensors[name].shape, layout.tensors[name].views[:1]
            transposed = any(set(view.piece.dimensions[0]) == inputs_of.get(view.leaf.path) for view in views)
            if shape != ((inputs, outputs) if transposed else (outputs, inputs)):
                raise BadConfiguration(
                    f"{self.where}: the adapter of {module} is {[outputs, rank]} x {[rank, inputs]}, and the model's "
                    f"weight is {list(shape)}; give the model that the adapter was trained with"
                )
            if name in found:
                raise BadConfiguration(
                    f"{self.where}: {found[name].module} and {module} are the same module of the model; delete one"
                )
            found[name] = _Weight(module, self.config.scale_of(module), transposed)
            for kind in (DOWN_END, UP_END, *((MAGNITUDE_END,) if self.config.dora else ())):
                self.tensor(module, kind)
        return FittedAdapter(self, found)

    def _check(self, module: str) -> None:
        """Compare the tensors of a module with each other and with the configuration."""
        down, up, magnitude = (
            self._files.tensors.get(f"{PREFIX}{module}{kind}") for kind in (DOWN_END, UP_END, MAGNITUDE_END)
        )
        if down is None or up is None or (self.config.dora and magnitude is None):
            raise BadConfiguration(f"{self.where}: the adapter of {module} is not complete; copy the files again")
        if magnitude is not None and not self.config.dora:
            raise BadConfiguration(
                f"{self.config.where}: use_dora is not true, but {module} has {MAGNITUDE_END[1:]}; correct use_dora"
            )
        if not self.config.is_target(module):
            raise BadConfiguration(
                f"{self.config.where}: target_modules and the fields beside it leave out {module}, which has an "
                f"adapter in {TENSORS_KEY}; correct them, or delete its tensors"
            )
        fits = len(down.shape) == len(up.shape) == 2 and down.shape[0] == up.shape[1]
        if not fits or (magnitude is not None and magnitude.shape != (up.shape[0],)):
            shown = f"{list(up.shape)} x {list(down.shape)}" + (
                f" with {list(magnitude.shape)} lengths" if magnitude is not None else ""
            )
            raise BadConfiguration(
                f"{self.where}: the adapter of {module} is {shown}, which is no low-rank map; copy the files again"
            )
        if down.shape[0] != self.config.rank_of(module):
            raise BadConfiguration(
                f"{self.config.where}: by r and rank_pattern, {module} has the rank {self.config.rank_of(module)}, and "
                f"in {TENSORS_KEY} it has {down.shape[0]}; give the configuration of this adapter"
            )


@dataclass(frozen=True)
class _Weight:
    """A weight of the model with an adapter.

    Attributes:
        module: The adapted module.
        scale: The factor of the product.
        transposed: Whether the weight is [inputs, outputs].
    """

    module: str
    scale: float
    transposed: bool


@dataclass(eq=False)
class FittedAdapter:
    """An adapter on the tensors of its model.

    Args:
        folder: The adapter.
        weights: The adapted weights by the names of their tensors.
    """

    folder: PeftFolder
    weights: Mapping[str, _Weight]

    def added(self, name: str, start: int, rows: np.ndarray) -> np.ndarray:
        """The rows of a tensor with its adapter added, in float32; `rows` as they are if it has none.

        Args:
            name: The tensor's name.
            start: Number of the first row.
            rows: The rows of the tensor from there on. If `needs_whole`, all of them.

        Raises:
            BadConfiguration: The sum has NaN or infinite numbers.
            StoreFailure: The store did not answer.
        """
        weight = self.weights.get(name)
        if weight is None:
            return rows
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            adapted = self._added(weight, start, rows)
        if not is_finite(adapted):
            raise BadConfiguration(
                f"{self.folder.where}: the weight of {weight.module} has NaN or infinite numbers with the adapter "
                "added; take another adapter"
            )
        return adapted

    def needs_whole(self, name: str) -> bool:
        """Whether `added` needs all rows of a tensor: the lengths of its columns go over all of them."""
        weight = self.weights.get(name)
        return weight is not None and weight.transposed and self.folder.config.dora

    def _added(self, weight: _Weight, start: int, rows: np.ndarray) -> np.ndarray:
        down, up = (self.folder.tensor(weight.module, kind) for kind in (DOWN_END, UP_END))
        part = slice(start, start + len(rows))
        delta = (up @ down[:, part]).T if weight.transposed else up[part] @ down
        adapted = rows.astype(np.float32) + np.float32(weight.scale) * delta
        if not self.folder.config.dora:
            return adapted
        magnitude = self.folder.tensor(weight.module, MAGNITUDE_END)
        if weight.transposed:
            return adapted * (magnitude / np.sqrt(np.sum(adapted * adapted, 0)))
        return adapted * (magnitude[part] / np.sqrt(np.sum(adapted * adapted, 1)))[:, None]


def _config(store: Store) -> AdapterConfig:
    data = store.read(CONFIG_KEY).data
    if data is None:
        folders = sorted(key.removesuffix(f"/{CONFIG_KEY}") for key in store.list("") if key.endswith(f"/{CONFIG_KEY}"))
        fix = (
            f"it has several adapters, {', '.join(folders)}; give the folder of one"
            if folders
            else "give the folder of an adapter"
        )
        raise BadConfiguration(f"{store.root} has no {CONFIG_KEY}; {fix}")
    if TENSORS_KEY not in store.list(TENSORS_KEY):
        there = (
            f" but {_PICKLED}; save it with peft as safetensors"
            if _PICKLED in store.list(_PICKLED)
            else "; copy all files of the adapter"
        )
        raise BadConfiguration(f"{store.root} has no {TENSORS_KEY}{there}")
    return read_adapter_config(data, f"{store.root}/{CONFIG_KEY}")


def _module_name(name: str, where: str) -> str:
    for kind in (DOWN_END, UP_END, MAGNITUDE_END):
        if name.startswith(PREFIX) and name.endswith(kind):
            return name.removeprefix(PREFIX).removesuffix(kind)
    what = "is no part of a low-rank adapter of a linear map" + (", but of an embedding" if _EMBEDDING in name else "")
    raise BadConfiguration(
        f"{where}/{TENSORS_KEY}: {name} {what}; merge it with peft (merge_and_unload), and import the model"
    )
