"""A step of a Llama of 1.2 billion parameters (the shape of Llama 3.2 1B) on one device, in bfloat16 with AdamW.

MFU = tokens a second x FLOPs of the model for a token / peak. The FLOPs are those of the metric ``mfu``: all products of parameters three
times, and the whole square of attention; the peak is that of the hardware table, in dense bfloat16, also for products in 8 bits.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterator
from typing import Any, get_args

import jax
import numpy as np

from halcyon.errors import BadConfiguration
from halcyon.machine.narrow_types import check_narrow
from halcyon.training.fitting import USABLE, Choice, with_choice
from halcyon.training.plan import step_bytes
from halcyon_api.hardware import NarrowType
from halcyon_api.spec.remat import AUTOMATIC_REMAT
from halcyon_api.spec.trainer import PrecisionSpec
from tests.accelerator.measure import Options, brief
from tests.accelerator.rows import Row
from tests.accelerator.training import LLAMA_1B, LLAMA_TINY, VOCABULARY, Training, spec_of

NARROW: dict[str, dict[str, Any]] = {
    "fast": {"fastAccumulation": "always"},
    "tensor": {"scales": "tensor"},
    "wide": {"parameterGradients": False, "head": False},
}
"""Words of a case with ``precision.products``, and their ``precision.narrowProducts``."""
CALLS = {"cuDNN": r"__cudnn\$\w+", "cuBLAS": r"__cublas\$[\w$]+", "Triton": r"__gpu\$xla\.gpu\.triton\w*"}
STEPS = 20


def rows(options: Options, case: tuple[str, ...]) -> Iterator[Row]:
    """One row: ``LENGTH-apart``, ``LENGTH-across``, ``remat`` for the policy that ``remat: auto`` takes, or a type of narrow products, with
    words of `NARROW`. With the word ``blockwise`` attention is computed so, instead of as ``auto`` does."""
    given = {"apart": True, "across": False}
    length = int(case[0]) if case[0].isdigit() else 8192
    batch, length = options.pick((32_768 // length, length), (2, 64))
    model, vocabulary = options.pick(({"llama": LLAMA_1B}, VOCABULARY), ({"llama": LLAMA_TINY}, 512))
    products = next((word for word in case if word in get_args(NarrowType)), None)
    narrow = {name: value for word in case for name, value in NARROW.get(word, {}).items()}
    if products is not None:
        try:
            check_narrow(PrecisionSpec(products=products), jax.devices()[:1])
        except BadConfiguration as error:
            yield {"case": " ".join(case), "left out": brief(error)}
            return
    apart = next((given[word] for word in case if word in given), True)
    attention = "blockwise" if "blockwise" in case else "auto"
    remat = "none" if "remat" in case else "attention"
    spec = spec_of(model, batch=batch, length=length, apart=apart, products=products, narrow=narrow, remat=remat, attention=attention)
    training = _fitting(spec, vocabulary) if "remat" in case else Training(spec, vocabulary)
    state = training.initial()
    state, seconds, losses = training.run(state, 2)
    state, seconds, losses = training.run(state, options.pick(STEPS, 3))
    if not np.isfinite(losses).all():
        yield {"case": " ".join(case), "error": f"the losses are {[float(loss) for loss in losses[:3]]}"}
    middle = statistics.median(seconds)
    used = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    planned = step_bytes(training.step)
    program = training.step.as_text() or ""
    calls = Counter(next((name for name, form in CALLS.items() if re.fullmatch(form, target)), target) for target in _targets(program))
    yield {
        "length": length,
        "documents": "apart" if apart else "across",
        "products": " ".join([products or "bfloat16", *(word for word in case if word in NARROW)]),
        "remat": training.spec.trainer.remat,
        "attention": ", ".join(training.program.attention_choices),
        "compile s": training.compile_seconds,
        "step ms": middle * 1e3,
        "p90 ms": float(np.quantile(seconds, 0.9)) * 1e3,
        "tokens/s": training.tokens / middle,
        "MFU": training.mfu(middle),
        "planned GB": None if planned is None else planned / 1e9,
        "used GB": None if used is None else used / 1e9,
        "calls": ", ".join(f"{count} {name}" for name, count in sorted(calls.items())),
        "loops": len(re.findall(r"\bwhile\(", program)),
    }


def _targets(program: str) -> list[str]:
    return re.findall(r'custom_call_target="([^"]+)"', program)


def _fitting(spec: object, vocabulary: int) -> Training:
    """The training with the least recomputation that fits, as `halcyon.training.fitting` chooses it for one number of microbatches."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    for policy in AUTOMATIC_REMAT:
        automatic = spec.model_copy(update={"trainer": spec.trainer.model_copy(update={"remat": "auto"})})
        training = Training(with_choice(automatic, Choice(1, policy)), vocabulary)
        if limit is None or (step_bytes(training.step) or 0) <= USABLE * limit:
            break
    return training
