"""A step on two devices that share the state (FSDP of 2), beside one device with half of the batch: what all-gather and
reduce-scatter cost where computation does not cover them.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import jax
import numpy as np

from halcyon.step.device_use import step_bytes
from tests.accelerator.measure import Options
from tests.accelerator.rows import Row
from tests.accelerator.training import LLAMA_1B, LLAMA_8B_WIDTHS, LLAMA_TINY, VOCABULARY, Training, spec_of

DEVICES = 2
LENGTH = 8192


def rows(options: Options) -> Iterator[Row]:
    """One row for each width, with the time that the collectives are not covered for."""
    if options.dry:
        jax.config.update("jax_num_cpu_devices", DEVICES)
    if jax.device_count() < DEVICES:
        yield {"devices": jax.device_count(), "left out": f"this machine has no {DEVICES} devices"}
        return
    for widths, model in (("1B", LLAMA_1B), ("8B", LLAMA_8B_WIDTHS)):
        sizes, vocabulary = options.pick((model, VOCABULARY), (LLAMA_TINY, 512))
        batch, length = options.pick((32_768 // LENGTH, LENGTH), (2, 64))
        alone, *_ = _measured(sizes, vocabulary, batch, length, 1, options)
        step, training, loss = _measured(sizes, vocabulary, DEVICES * batch, length, DEVICES, options)
        planned, used = step_bytes(training.step), (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        mfu = training.mfu(step)
        yield {
            "widths": widths,
            "devices": DEVICES,
            "step ms": step * 1e3,
            "planned ms": None if (by_plan := training.planned_seconds()) is None else by_plan * 1e3,
            "one device ms": alone * 1e3,
            "not covered ms": (step - alone) * 1e3,
            "tokens/s": training.tokens / step,
            "MFU": None if mfu is None else mfu / DEVICES,
            "planned GB": None if planned is None else planned / 1e9,
            "used GB": None if used is None else used / 1e9,
            "loss": loss,
        }


def _measured(
    model: Row, vocabulary: int, batch: int, length: int, devices: int, options: Options
) -> tuple[float, Training, float]:
    """The median time of a step in seconds, the training, and the loss after its steps."""
    training = Training(spec_of(model, batch=batch, length=length), vocabulary, devices)
    _, seconds, losses = training.run(training.initial(), options.pick(20, 3))
    return statistics.median(seconds), training, float(np.asarray(losses[-1]))
