"""Weights in few bits, as published files have them: random codes and scales, and the values that they stand for.

The values are computed here element by element, from the place of each code in its file. NumPy alone is needed, so that
``tests/parity/narrow.py`` can decode the same weights with the programs that write such files.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)  # fmt: skip
FP4 = (0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3)
MAPS = {"nf4": np.array(NF4, np.float32), "fp4": np.array(FP4, np.float32) / np.float32(12)}
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
"""The output of a word of AWQ that each of its codes is of."""
GROUP = 64
FORMS: dict[str, dict[str, Any]] = {
    "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "nf4 nested": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "fp4": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "gptq 4": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": True},
    "gptq 8": {"quant_method": "gptq", "bits": 8, "group_size": GROUP, "checkpoint_format": "gptq_v2"},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True},
    "fp8": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
}


def _words(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.integers(-(2**31), 2**31, shape, np.int32)


def packed(form: str, name: str, outputs: int, inputs: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors of a random weight ``name.weight`` in a form; e4m3 as uint8."""
    random, settings = np.random.default_rng(seed), FORMS[form]
    scales = random.uniform(0.01, 0.1, (-(-inputs // GROUP), outputs)).astype(np.float16)
    if form == "int8":
        codes = random.integers(-127, 128, (outputs, inputs), np.int8)
        found = {"weight": codes, "SCB": scales[0].astype(np.float32), "weight_format": np.array(0, np.uint8)}
    elif form == "fp8":
        squares = random.uniform(0.01, 0.1, (-(-outputs // 128), -(-inputs // 128))).astype(np.float32)
        codes = random.integers(0, 127, (outputs, inputs), np.uint8) | random.integers(0, 2, inputs, np.uint8) << 7
        found = {"weight": codes, "weight_scale_inv": squares}
    elif form in ("gptq 4", "gptq 8", "awq"):
        each, groups = 32 // settings["bits"], len(scales)
        found = {"scales": scales, "qzeros": _words(random, groups, outputs // each) & 0x66666666}
        found["qweight"] = _words(random, *((inputs, outputs // each) if form == "awq" else (inputs // each, outputs)))
        if form != "awq":
            found["g_idx"] = random.permutation(np.arange(inputs, dtype=np.int32) // GROUP)
    else:
        kind, blocks = form[:3], outputs * inputs // 64
        state: dict[str, Any] = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": [outputs, inputs]}
        found = {"weight": random.integers(0, 256, (outputs * inputs // 2, 1), np.uint8)}
        found |= {"weight.quant_map": MAPS[kind], "weight.absmax": random.uniform(0.01, 0.1, blocks).astype(np.float32)}
        if form == "nf4 nested":
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.0625}
            found["weight.absmax"] = random.integers(0, 256, blocks, np.uint8)
            found["weight.nested_absmax"] = random.uniform(0.001, 0.01, -(-blocks // 256)).astype(np.float32)
            found["weight.nested_quant_map"] = np.sort(random.uniform(-1, 1, 256)).astype(np.float32)
        found[f"weight.quant_state.bitsandbytes__{kind}"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return {f"{name}.{end}": array for end, array in found.items()}


def wide(form: str, name: str, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The values of a weight of `packed`, [out, in] in float32."""
    part = {key.removeprefix(f"{name}."): array for key, array in tensors.items()}
    if form == "int8":
        return part["weight"].astype(np.float32) * part["SCB"][:, None] * np.float32(1 / 127)
    if form == "fp8":
        row, column = np.indices(part["weight"].shape)
        exponent, digits = (part["weight"] >> 3 & 15).astype(int), part["weight"] & 7
        values = np.where(exponent > 0, (8 + digits) * 2.0 ** (exponent - 10), digits * 2.0**-9)
        values *= 1 - 2.0 * (part["weight"] >> 7)
        return values.astype(np.float32) * part["weight_scale_inv"][row // 128, column // 128]
    if "weight" in part:
        state = json.loads(part[f"weight.quant_state.bitsandbytes__{form[:3]}"].tobytes())
        place = np.arange(np.prod(state["shape"])).reshape(state["shape"])
        scales = part["weight.absmax"]
        if form == "nf4 nested":
            outer = np.repeat(part["weight.nested_absmax"], 256)[: scales.size]
            scales = part["weight.nested_quant_map"][scales] * outer + np.float32(0.0625)
        codes = part["weight"].ravel()[place // 2] >> (4 - place % 2 * 4) & 15
        return part["weight.quant_map"][codes] * scales[place // 64]
    bits = FORMS[form]["bits"]
    each, mask, outputs = 32 // bits, (1 << bits) - 1, part["scales"].shape[1]
    inputs = part["qweight"].shape[0] * (1 if form == "awq" else each)
    out, at = np.indices((outputs, inputs))
    group = at // GROUP if form == "awq" else part["g_idx"][at]
    code = np.argsort(ORDER)[out % each] if form == "awq" else out % each
    zeros = part["qzeros"][group, out // each] >> bits * code & mask
    if form == "awq":
        codes = part["qweight"][at, out // each] >> bits * code & mask
    else:
        codes = part["qweight"][at // each, out] >> bits * (at % each) & mask
    return (codes - zeros - (form == "gptq 4")).astype(np.float32) * part["scales"][group, out].astype(np.float32)


def mxfp4(name: str, experts: int, outputs: int, inputs: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors of random experts as gpt-oss has them."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (experts, outputs, inputs // 32, 16), np.uint8)
    return {
        f"{name}_blocks": blocks,
        f"{name}_scales": random.integers(110, 128, (experts, outputs, inputs // 32), np.uint8),
    }


def mxfp4_wide(name: str, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The values of `mxfp4`: [expert, in, out] in float32."""
    blocks, scales = tensors[f"{name}_blocks"], tensors[f"{name}_scales"].astype(np.float64)
    expert, at, out = np.indices((blocks.shape[0], blocks.shape[2] * 32, blocks.shape[1]))
    codes = blocks[expert, out, at // 32, at % 32 // 2] >> (at % 2 * 4) & 15
    values = np.array([*E2M1, *(-one for one in E2M1)])[codes] * 2 ** (scales[expert, out, at // 32] - 127)
    return values.astype(np.float32)
