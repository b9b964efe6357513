"""Weights that published files hold in 4 or 8 bits: found by their names, decoded as their rows are read.

`NarrowFiles` shows each such weight as the wide tensor that it stands for, under its name, so the rest of the import
knows nothing of the forms. A form decodes a weight to float32 by the formula of the program that wrote it:

- ``mxfp4``: the experts of gpt-oss, e2m1 with powers of 2 in blocks of 32 (``integrations/mxfp4.py`` of transformers).
- ``bitsandbytes``: nf4 and fp4 with scales of blocks, which may be codes themselves, and int8 with a scale for each
  output (``csrc/cpu_ops.cpp`` and ``_ops.py`` of bitsandbytes).
- ``gptq``: integers of 4 or 8 bits, minus a zero point, times a scale, both of a group of inputs (``qlinear_cuda.py``
  of AutoGPTQ). Its files have zero points minus 1, those of the form ``gptq_v2`` of GPTQModel do not.
- ``awq``: the same with the outputs of a word in another order (``packing_utils.py`` of AutoAWQ, version ``gemm``).
- ``fp8``: e4m3 with a scale for each square of weights (``finegrained_fp8.py`` of transformers, DeepSeek V3).

Sizes are checked by the headers of the files, before anything is decoded.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.store import Store
from halcyon.models.parts.coded import VALUES
from halcyon.models.published.config import ConfigReader
from halcyon.weights.safetensors import NAMES, StoredTensor, TensorFiles

Form = tuple[str, str | None, tuple[int, ...], Callable[[int, int], np.ndarray]]
"""Of a weight: the end of the wide tensor's name, the type to which the program of the form decodes it (None: that of
config.json), its shape, and what reads rows of it in float32.
"""
_DECODED_AT_A_TIME = 1 << 24
_LARGEST_STATE = 4096
_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_SCALES = "F32 F16 BF16"
_E2M1 = np.array(VALUES["mxfp4"], np.float32)
_AWQ_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]


@dataclass(frozen=True)
class _Weight:
    """The tensors of one weight, whose names begin alike; one ends with `end`."""

    files: TensorFiles
    stem: str
    end: str
    settings: ConfigReader
    names: list[str] = field(default_factory=list)

    def shape(self, end: str, kinds: str, *sizes: int) -> tuple[int, ...]:
        """The shape of a tensor, which must have one of the types and these sizes; 0: any size."""
        found = self.files.tensors.get(self.stem + end)
        if (
            found is None
            or found.type not in kinds
            or len(found.shape) != len(sizes)
            or any(have == 0 or want not in (0, have) for have, want in zip(found.shape, sizes, strict=True))
        ):
            raise self.wrong(end, f"has not the type {kinds} and the shape {list(sizes)} (0: any)")
        self.names.append(self.stem + end)
        return found.shape

    def wrong(self, end: str, what: str) -> BadConfiguration:
        return BadConfiguration(
            f"{self.files.store.root}: the tensor {self.stem}{end} {what}, so it is not in the form "
            f"{self.settings.text('quant_method')}; copy the files again, or convert the model to bfloat16"
        )

    def rows(self, end: str, *region: int) -> np.ndarray:
        """Rows [start, stop) of a tensor; without a region, all."""
        name = self.stem + end
        return self.files.rows(name, *(region or (0, self.files.tensors[name].shape[0])))


def _halves(codes: np.ndarray) -> np.ndarray:
    """The lower and the upper half of each byte."""
    return np.stack([codes & 15, codes >> 4], -1)


def _mxfp4(weight: _Weight) -> Form:
    experts, outputs, blocks, _ = weight.shape("_blocks", "U8", 0, 0, 0, 16)
    weight.shape("_scales", "U8", experts, outputs, blocks)

    def rows(*region: int) -> np.ndarray:
        codes, scales = weight.rows("_blocks", *region), weight.rows("_scales", *region)
        values = _E2M1[_halves(codes)].reshape(*scales.shape, 32)
        values *= np.ldexp(np.float32(1), scales.astype(np.int32) - 127)[..., None]
        return values.reshape(-1, outputs, blocks * 32).swapaxes(1, 2)

    return "", "BF16", (experts, blocks * 32, outputs), rows


def _bitsandbytes_4(weight: _Weight) -> Form:
    (size,) = weight.shape(weight.end, "U8", 0)
    state = ConfigReader.parse(
        weight.rows(weight.end, 0, min(size, _LARGEST_STATE)).tobytes(), weight.stem + weight.end
    )
    state.only("nested_blocksize", 256)
    block, nested = state.integer("blocksize"), state.has("nested_offset")
    match state.document.get("shape"):
        case [int(outputs), int(inputs)] if min(outputs, inputs, block) > 0 and inputs % block == inputs % 2 == 0:
            each = inputs // block
        case _:
            raise weight.wrong(weight.end, "has a shape that blocks do not divide")
    weight.shape("", "U8", outputs * inputs // 2, 1)
    weight.shape(".absmax", "U8" if nested else "F32", outputs * each)
    weight.shape(".quant_map", "F32", 16)
    offset = 0.0
    if nested:
        offset = state.number("nested_offset")
        weight.shape(".nested_absmax", "F32", -(-outputs * each // 256))
        weight.shape(".nested_quant_map", "F32", 256)

    def rows(start: int, stop: int) -> np.ndarray:
        codes = weight.rows("", start * inputs // 2, stop * inputs // 2)
        scales = weight.rows(".absmax", start * each, stop * each)
        if nested:
            outer = weight.rows(".nested_absmax")[np.arange(start * each, stop * each) // 256]
            scales = weight.rows(".nested_quant_map")[scales] * outer + np.float32(offset)
        values = weight.rows(".quant_map")[_halves(codes)[..., ::-1]].reshape(-1, block)
        return (values * scales[:, None]).reshape(-1, inputs)

    return "", _TYPES.get(state.text("dtype")), (outputs, inputs), rows


def _bitsandbytes_8(weight: _Weight) -> Form:
    shape = weight.shape(".weight", "I8", 0, 0)
    weight.shape(".SCB", "F32", shape[0])
    weight.shape(".weight_format", "U8")
    if weight.rows(".weight_format", 0, 1):
        raise weight.wrong(".weight_format", "is not 0")

    def rows(*region: int) -> np.ndarray:
        values = weight.rows(".weight", *region) * weight.rows(".SCB", *region)[:, None]
        return values * np.float32(7.874015718698502e-3)

    return ".weight", None, shape, rows


def _integers(weight: _Weight) -> Form:
    """A weight of gptq or awq, [in, out] in the files: an output is a column of them."""
    settings = weight.settings
    is_awq = settings.text("quant_method") == "awq"
    for key in ("checkpoint_format", "format", "version"):
        settings.only(key, *(("gemm", "GEMM") if is_awq else ("gptq", "gptq_v2")))
    settings.only("bits", *((4,) if is_awq else (4, 8)))
    bits, group = settings.integer("bits"), settings.integer("group_size")
    less = not is_awq and "gptq_v2" not in settings.document.values()
    each = 32 // bits
    height, width = weight.shape(".qweight", "I32", 0, 0)
    inputs, outputs = (height, width * each) if is_awq else (height * each, width)
    group = min(group, inputs) if group > 0 else inputs
    groups, _ = weight.shape(".scales", _SCALES, -(-inputs // group), outputs)
    weight.shape(".qzeros", "I32", groups, -(-outputs // each))
    if not is_awq:
        weight.shape(".g_idx", "I32", inputs)

    def unpacked(end: str) -> np.ndarray:
        """The codes of a tensor: [row, word, code]."""
        words = weight.rows(end)
        codes = words.view(np.uint8).reshape(*words.shape, 4)
        if bits == 4:
            codes = _halves(codes).reshape(*words.shape, 8)
        return codes[..., _AWQ_ORDER] if is_awq else codes

    def rows(start: int, stop: int) -> np.ndarray:
        codes, zeros = unpacked(".qweight"), unpacked(".qzeros").reshape(groups, -1)[:, start:stop]
        codes = (codes if is_awq else codes.swapaxes(1, 2)).reshape(inputs, outputs)[:, start:stop]
        index = np.arange(inputs, dtype=np.int32) // group if is_awq else weight.rows(".g_idx")
        if index.view(np.uint32).max() >= groups:
            raise weight.wrong(".g_idx", "names other groups")
        if less and zeros.max() == (1 << bits) - 1:  # plus 1: some programs take it for 0
            raise weight.wrong(".qzeros", f"has zero points of {1 << bits}")
        return ((codes - (zeros + np.float32(less))[index]) * weight.rows(".scales")[:, start:stop][index]).T

    return ".weight", weight.files.tensors[f"{weight.stem}.scales"].type, (outputs, inputs), rows


def _fp8(weight: _Weight) -> Form:
    height, width = weight.shape("", "F8_E4M3", 0, 0)
    weight.settings.only("weight_block_size", [128, 128])
    weight.shape("_scale_inv", _SCALES, -(-height // 128), -(-width // 128))

    def rows(start: int, stop: int) -> np.ndarray:
        scales = weight.rows("_scale_inv")[np.arange(start, stop) // 128]
        return weight.rows("", start, stop).astype(np.float32) * scales.repeat(128, 1)[:, :width]

    return "", None, (height, width), rows


_FORMS = {
    "mxfp4": {"_blocks": _mxfp4},
    "bitsandbytes": {
        ".quant_state.bitsandbytes__nf4": _bitsandbytes_4,
        ".quant_state.bitsandbytes__fp4": _bitsandbytes_4,
        ".SCB": _bitsandbytes_8,
    },
    "gptq": {".qweight": _integers},
    "awq": {".qweight": _integers},
    "fp8": {"_scale_inv": _fp8},
}
"""The forms by ``quant_method``: how the name of one tensor of each weight ends, and what reads the weight."""


class NarrowFiles(TensorFiles):
    """The tensors of a folder, with wide tensors in the place of narrow weights.

    Args:
        store: The folder.
        config: Its config.json, with a ``quantization_config``.
        dtype: The type to which narrow weights are rounded. None: that of the program of their form.

    Raises:
        BadConfiguration: Halcyon does not read the form, or a tensor of a weight is missing or has another shape.
        StoreFailure: The store did not answer.
    """

    def __init__(self, store: Store, config: ConfigReader, dtype: np.dtype | None = None) -> None:
        settings = config.part("quantization_config")
        form = settings.text("quant_method", "not named")
        super().__init__(store)
        files = TensorFiles(store, tensors=self.tensors)
        default = _TYPES.get(config.text("dtype", config.text("torch_dtype", "")), "BF16")
        self._rows: dict[str, Callable[[int, int], np.ndarray]] = {}
        for (end, read), (name, found) in itertools.product(_FORMS.get(form, {}).items(), files.tensors.items()):
            if not name.endswith(end):
                continue
            weight = _Weight(files, name.removesuffix(end), end, settings)
            rest, kind, shape, self._rows[weight.stem + rest] = read(weight)
            if weight.stem + rest in self.tensors.keys() - weight.names:
                raise weight.wrong(rest, "is there twice")
            for one in weight.names:
                del self.tensors[one]
            self.tensors[weight.stem + rest] = StoredTensor(found.file, NAMES.get(dtype, kind or default), shape, 0)
        if not self._rows:
            raise BadConfiguration(
                f"{settings.where}: the format is {form}, and {store.root} has no weight in it that Halcyon reads; it "
                f"reads {', '.join(_FORMS)} and floating-point types, so convert the model to bfloat16 first"
            )

    def data(self, name: str, start: int, stop: int) -> bytes | memoryview:
        """The bytes of rows; of a narrow weight, those of the wide tensor."""
        if name not in self._rows:
            return super().data(name, start, stop)
        tensor = self.tensors[name]
        values = np.empty((stop - start, *tensor.shape[1:]), tensor.dtype)
        step = max(_DECODED_AT_A_TIME // math.prod(tensor.shape[1:]), 1)
        with np.errstate(over="ignore", invalid="ignore"):  # the reader finds numbers that are not finite
            for at in range(0, stop - start, step):
                values[at : at + step] = self._rows[name](start + at, min(start + at + step, stop))
        return values.reshape(-1).view(np.uint8).data
