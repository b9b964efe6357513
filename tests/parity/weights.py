"""Weights of models by formula, and their names in files. It needs neither torch nor this project."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping

import numpy as np

Shapes = Mapping[str, tuple[int, ...]]


def computed_weights(shapes: Shapes) -> dict[str, np.ndarray]:
    """Weights by name: float32, uniform.

    They are computed with integers alone, so they are the same everywhere and need no file.
    """
    return {name: _computed(name, shape) for name, shape in shapes.items()}


def _computed(name: str, shape: tuple[int, ...]) -> np.ndarray:
    numbers = computed_integers(name, int(np.prod(shape)))
    uniform = ((numbers >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)).reshape(shape)
    is_norm = "norm" in name or ".ln_" in name
    return (
        np.float32(1) + np.float32(0.3) * uniform
        if is_norm and not name.endswith("bias")
        else np.float32(0.5) * uniform
    )


def computed_integers(name: str, count: int) -> np.ndarray:
    """Some 64-bit numbers that look random (SplitMix64; Steele et al. 2014): uint64 [count]."""
    with np.errstate(over="ignore"):
        state = np.uint64(zlib.crc32(name.encode())) * np.uint64(1 << 32) + np.arange(1, count + 1, dtype=np.uint64)
        state = state * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))


def in_files(kind: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors by their names in files.

    In a model, transformers keeps the experts of a layer in one tensor; most files do not.
    """
    found: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        if kind == "mixtral":
            name = name.replace(".mlp.", ".block_sparse_moe.")
        if kind == "gemma3":  # the published names, which transformers reads
            name = re.sub(r"^model\.(?=vision|multi_modal)", "", name)
            name = re.sub(r"^(model\.)?vision_tower\.(?!vision_model)", "vision_tower.vision_model.", name)
            name = re.sub(r"^model\.language_model\.", "language_model.model.", name)
        if kind == "qwen2_5_vl":
            name = re.sub(r"^model\.(language_model|(?=visual))", lambda found: "model" if found[1] else "", name)
        prefix, _, last = name.rpartition(".experts.")
        if not prefix or kind == "gpt_oss":
            found[name] = value
            continue
        gate, up, down = ("w1", "w3", "w2") if kind == "mixtral" else ("gate_proj", "up_proj", "down_proj")
        for number, matrix in enumerate(value):
            parts = (
                dict(zip((gate, up), np.split(matrix, 2), strict=True)) if last == "gate_up_proj" else {down: matrix}
            )
            found |= {
                f"{prefix}.experts.{number}.{part}.weight": np.ascontiguousarray(one) for part, one in parts.items()
            }
    return found
