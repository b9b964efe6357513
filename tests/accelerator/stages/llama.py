"""A step of a Llama of 1.2 billion parameters (the shape of Llama 3.2 1B) on one device, in bfloat16 with AdamW; and of
six layers of Llama 3 8B (the word ``8b``).

MFU = tokens a second x FLOPs of the model for a token / peak. The FLOPs are those of the metric ``mfu``: all products
of parameters three times, and the whole square of attention; the peak is that of the hardware table, in dense bfloat16,
also for products in 8 bits.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator

import jax
import numpy as np
from pydantic import ValidationError

from halcyon.host.errors import BadConfiguration
from halcyon.parallel.devices import check_host_memory, check_narrow
from halcyon.run.auto_tuning import USABLE, Choice, with_choice
from halcyon.step.device_use import step_bytes
from halcyon.step.hlo import contents
from halcyon.step.hlo.module import parse
from halcyon_api.spec.trainer import AUTOMATIC_REMAT
from tests.accelerator.measure import Options, brief
from tests.accelerator.rows import Row
from tests.accelerator.training import LLAMA_1B, LLAMA_8B_WIDTHS, LLAMA_TINY, VOCABULARY, Training, spec_of

PRODUCTS = "trainer.precision.products="
FIELDS: dict[str, str] = {
    "across": "data.attendAcrossDocuments=true",
    "blockwise": "trainer.attention=blockwise",
    "unroll": "trainer.unroll=2",
    "moments": "trainer.precision.moments=float8",
    "offload": "trainer.offload=optimizer",
    "float8": f"{PRODUCTS}float8",
    "int8": f"{PRODUCTS}int8",
    "mxfp8": f"{PRODUCTS}mxfp8",
    "nvfp4": f"{PRODUCTS}nvfp4",
    "fast": "trainer.precision.narrowProducts.fastAccumulation=always",
    "tensor": "trainer.precision.narrowProducts.scales=tensor",
    "wide": "trainer.precision.narrowProducts={parameterGradients: false, head: false}",
}
"""Words of a case, and the field that each sets."""
STEPS = 20


def rows(options: Options, case: tuple[str, ...]) -> Iterator[Row]:
    """One row: a length or none, and words of `FIELDS`; with ``remat``, the policy is the one that ``remat: auto``
    takes.
    """
    length = int(case[0]) if case[0].isdigit() else 8192
    batch, length = options.pick((32_768 // length, length), (2, 64))
    full = LLAMA_8B_WIDTHS if "8b" in case else LLAMA_1B
    model, vocabulary = options.pick((full, VOCABULARY), (LLAMA_TINY, 512))
    settings = [FIELDS[word] for word in case if word in FIELDS]
    try:
        spec = spec_of(model, *settings, batch=batch, length=length)
        check_narrow(spec.trainer.precision, jax.devices()[:1])
        check_host_memory(spec.trainer, jax.devices()[:1])
    except (BadConfiguration, ValidationError) as error:
        yield {"case": " ".join(case), "left out": brief(error)}
        return
    training = _fitting(spec, vocabulary) if "remat" in case else Training(spec, vocabulary)
    state = training.initial()
    state, seconds, losses = training.run(state, 2)
    state, seconds, losses = training.run(state, options.pick(STEPS, 3))
    if not np.isfinite(losses).all():
        yield {"case": " ".join(case), "error": f"the losses are {[float(loss) for loss in losses[:3]]}"}
    middle = statistics.median(seconds)
    used = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    planned = step_bytes(training.step)
    program = parse(training.step.as_text() or "")
    calls: Counter[str] = Counter()
    for call in contents.calls(program):
        calls[call.target] += call.times
    yield {
        "widths": "8B" if "8b" in case else "1B",
        "length": length,
        "fields": ", ".join(setting.rpartition("precision.")[2].removeprefix("trainer.") for setting in settings)
        or "default",
        "remat": training.spec.trainer.remat,
        "attention": ", ".join(training.program.attention_choices),
        "compile s": training.compile_seconds,
        "step ms": middle * 1e3,
        "planned ms": None if (by_plan := training.planned_seconds()) is None else by_plan * 1e3,
        "p90 ms": float(np.quantile(seconds, 0.9)) * 1e3,
        "tokens/s": training.tokens / middle,
        "MFU": training.mfu(middle),
        "planned GB": None if planned is None else planned / 1e9,
        "used GB": None if used is None else used / 1e9,
        "calls": ", ".join(f"{count} {name}" for name, count in sorted(calls.items())),
        "loops": len(contents.loops(program)),
    }


def _fitting(spec: object, vocabulary: int) -> Training:
    """The training with the least recomputation that fits, as `halcyon.run.auto_tuning` chooses it for one number of
    microbatches.
    """
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    for policy in AUTOMATIC_REMAT:
        automatic = spec.model_copy(update={"trainer": spec.trainer.model_copy(update={"remat": "auto"})})
        training = Training(with_choice(automatic, Choice(1, policy)), vocabulary)
        if limit is None or (step_bytes(training.step) or 0) <= USABLE * limit:
            break
    return training
