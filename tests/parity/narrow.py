"""Decodes weights of few bits with the programs that write them: bitsandbytes on a processor, and transformers.

The hashes of their bytes are the goldens of ``tests/trainer/weights/test_narrow.py``. ``make parity`` calls this with
``--check``:

    ~/.cache/halcyon/transformers-…/bin/python -m tests.parity.narrow [--check]
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import bitsandbytes.functional as few_bits
import torch
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from tests.trainer.weights.narrow_cases import FORMS, mxfp4, packed

GOLDENS = Path(__file__).parents[1] / "trainer/weights/goldens/narrow.json"
SHAPE = (256, 384)


def decoded(form: str) -> Any:
    """A weight of ``packed(form, "a", *SHAPE)`` in the type that the program gives it."""
    tensors = {name[2:]: torch.from_numpy(array) for name, array in packed(form, "a", *SHAPE).items()}
    if form == "int8":
        return few_bits.int8_vectorwise_dequant(tensors["weight"], tensors["SCB"])
    if form == "fp8":
        codes = tensors["weight"].view(torch.float8_e4m3fn)
        return Fp8Dequantize(None)._dequantize_one(codes, tensors["weight_scale_inv"], torch.bfloat16)
    weight = tensors.pop("weight")
    return few_bits.dequantize_4bit(weight, few_bits.QuantState.from_dict(tensors, device=torch.device("cpu")))


def main() -> int:
    """Write the hashes, or compare them."""
    forms = [form for form, settings in FORMS.items() if settings["quant_method"] not in ("gptq", "awq")]
    found = {form: decoded(form) for form in forms}
    blocks, scales = map(torch.from_numpy, mxfp4("a", 3, 10, 64).values())
    found["mxfp4"] = convert_moe_packed_tensors(blocks, scales)
    hashes = {
        form: [
            str(one.dtype).removeprefix("torch."),
            hashlib.sha256(one.contiguous().view(torch.uint8).numpy()).hexdigest(),
        ]
        for form, one in found.items()
    }
    if "--check" not in sys.argv:
        GOLDENS.write_text(json.dumps(hashes, indent=1) + "\n")
    elif json.loads(GOLDENS.read_text()) != hashes:
        print(f"{GOLDENS.name} is not what bitsandbytes and transformers decode", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
