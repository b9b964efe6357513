"""Reads an adapter in the files of the library ``peft``, and adds it to the tensors of its model.

A module of the model in transformers has ``lora_A.weight`` [rank, inputs] and ``lora_B.weight`` [outputs, rank], and with DoRA
``lora_magnitude_vector`` [outputs]; names begin with ``base_model.model.``. The sources are ``save_and_load.py`` and ``tuners/lora`` of
https://github.com/huggingface/peft. `halcyon.huggingface.peft` writes these files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

import numpy as np

from halcyon.errors import BadConfiguration
from halcyon.huggingface.files import TensorFiles
from halcyon.storage.store import Store

CONFIG_KEY = "adapter_config.json"
TENSORS_KEY = "adapter_model.safetensors"
PREFIX = "base_model.model."
WEIGHT_END = ".weight"
DOWN_END, UP_END, MAGNITUDE_END = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
"""Ends of the names of an adapter's tensors."""


class PeftFolder:
    """An adapter in the files of peft, to be added to the tensors of its model.

    Args:
        store: The folder.

    Raises:
        BadConfiguration: It is no adapter, or of a kind that Halcyon does not compute.
        StoreFailure: The store did not answer.
    """

    def __init__(self, store: Store) -> None:
        data = store.read(CONFIG_KEY).data
        where = f"{store.root}/{CONFIG_KEY}"
        if data is None:
            raise BadConfiguration(f"{store.root} has no {CONFIG_KEY}; give the folder of an adapter")
        try:
            config = dict(json.loads(data))
            if config["peft_type"] != "LORA":
                raise BadConfiguration(f"{where}: peft_type is {config['peft_type']}; only LORA can be added to weights")
            self._alpha = float(config["lora_alpha"])
            self._alphas: dict[str, float] = dict(config.get("alpha_pattern") or {})
        except (ValueError, KeyError, TypeError):
            raise BadConfiguration(f"{where} is damaged; copy it again") from None
        if config.get("modules_to_save") or config.get("bias", "none") != "none" or config.get("target_parameters"):
            raise BadConfiguration(
                f"{where}: the adapter has more than low-rank maps (modules_to_save, bias or target_parameters); merge it with peft, and "
                "import the model"
            )
        self._rooted, self._dora = bool(config.get("use_rslora")), bool(config.get("use_dora"))
        self._inputs_first = bool(config.get("fan_in_fan_out"))
        self._files = TensorFiles(store, single=TENSORS_KEY)
        self._where = store.root
        self.modules = sorted({_module_name(name, store.root) for name in self._files.tensors})
        """Names of the adapted modules in transformers."""

    def check(self, tensors: Mapping[str, tuple[int, ...]]) -> None:
        """Compare the adapter with the tensors of a model.

        Args:
            tensors: Shapes of the model's tensors by their names.

        Raises:
            BadConfiguration: The model lacks a module, or its weight has another shape.
        """
        for module in self.modules:
            shape = tensors.get(f"{module}{WEIGHT_END}")
            down, up = (self._files.tensors.get(f"{PREFIX}{module}{kind}") for kind in (DOWN_END, UP_END))
            if down is None or up is None or (self._dora and f"{PREFIX}{module}{MAGNITUDE_END}" not in self._files.tensors):
                raise BadConfiguration(f"{self._where}: the adapter of {module} is not complete; copy the files again")
            fits = len(down.shape) == len(up.shape) == 2 and down.shape[0] == up.shape[1]
            if shape is None or not fits or sorted(shape) != sorted((up.shape[0], down.shape[1])):
                raise BadConfiguration(
                    f"{self._where}: the adapter of {module} is {list(up.shape)} x {list(down.shape)}, and the model's weight is "
                    f"{'missing' if shape is None else list(shape)}; give the model that the adapter was trained with"
                )

    def added(self, name: str, shape: tuple[int, ...], start: int, rows: np.ndarray) -> np.ndarray:
        """The rows of a tensor with its adapter added, in float32; `rows` as they are if it has none.

        Args:
            name: The tensor's name.
            shape: Its shape.
            start: Number of the first row.
            rows: The rows of the tensor from there on. With DoRA and a transposed weight, all of them.
        """
        module = name.removesuffix(WEIGHT_END)
        if not name.endswith(WEIGHT_END) or module not in self.modules:
            return rows
        down, up = (self._tensor(f"{module}{kind}") for kind in (DOWN_END, UP_END))
        transposed = self._is_transposed(shape, up.shape[0])
        part = slice(start, start + len(rows))
        delta = (up @ down[:, part]).T if transposed else up[part] @ down
        adapted = rows.astype(np.float32) + np.float32(self._scale(module, len(down))) * delta
        if not self._dora:
            return adapted
        magnitude = self._tensor(f"{module}{MAGNITUDE_END}").reshape(-1)
        if transposed:
            return adapted * (magnitude / np.sqrt(np.sum(adapted * adapted, 0)))
        return adapted * (magnitude[part] / np.sqrt(np.sum(adapted * adapted, 1)))[:, None]

    def needs_whole(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether `added` needs all rows of a tensor: the lengths of its columns go over all of them."""
        module = name.removesuffix(WEIGHT_END)
        if not self._dora or module not in self.modules:
            return False
        return self._is_transposed(shape, self._files.tensors[f"{PREFIX}{module}{UP_END}"].shape[0])

    def _is_transposed(self, shape: tuple[int, ...], outputs: int) -> bool:
        """Whether a weight is [inputs, outputs]. A square one is if the adapter says that of its modules."""
        return self._inputs_first if shape[0] == shape[1] else shape[0] != outputs

    def _scale(self, module: str, rank: int) -> float:
        alpha = next((value for key, value in self._alphas.items() if re.fullmatch(rf"(.*\.)?({key})", module)), self._alpha)
        return float(alpha) / (math.sqrt(rank) if self._rooted else rank)

    def _tensor(self, name: str) -> np.ndarray:
        shape = self._files.tensors[f"{PREFIX}{name}"].shape
        return self._files.rows(f"{PREFIX}{name}", 0, shape[0]).astype(np.float32)


def _module_name(name: str, where: str) -> str:
    for kind in (DOWN_END, UP_END, MAGNITUDE_END):
        if name.startswith(PREFIX) and name.endswith(kind):
            return name.removeprefix(PREFIX).removesuffix(kind)
    raise BadConfiguration(f"{where}/{TENSORS_KEY}: {name} is no part of a low-rank adapter of a linear map; merge it with peft first")
