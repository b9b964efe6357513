"""Measures the devices of each process before the first step, where ``spec.recovery.straggler`` is set: a node that is
slow, or that computes wrong numbers, is known before the others wait for it.

It comes before the step is compiled, which would use the same processors. Processes that start again in their pods have
been measured. All together takes less than two seconds.
"""

import time
from typing import Any

import jax
import numpy as np

from halcyon.host.errors import Corrupted
from halcyon.parallel.stragglers import slow_at_start
from halcyon.run.features.audits import sentence
from halcyon.run.place import Place
from halcyon.step.audit import compare_products
from halcyon.step.program import Program
from halcyon.step.speeds import rates_of
from halcyon_api.status.progress import SlowProcess

_SECONDS = 0.25
"""Duration of a measurement. Its mean counts, so that a processor that stands still for a part of the time counts by
this part.
"""
_TOGETHER = 4
_SIDE, _BYTES = 8192, 256 << 20
_SIDE_ON_CPU, _BYTES_ON_CPU = 256, 8 << 20


def check_devices(place: Place, program: Program) -> SlowProcess | None:
    """Measure, and report a slow process. A collective.

    Args:
        place: The run and its processes.
        program: The program of the run.

    Raises:
        Corrupted: A device multiplies the same matrices to other bits.
    """
    recovery, lineage, reporter = place.spec.recovery, place.context.lineage, place.reporter
    if recovery.straggler is None or (lineage is not None and lineage.ends and not lineage.ends[-1].get("podLost")):
        return None
    step = max(1, place.context.resume_step)  # 0 is for a node to which the run has come back
    if recovery.audit is None and program.determinism_in_effect != "fast":  # an audit does it too
        finding = compare_products(program.mesh, lambda lowered, _: program.compile(lowered))
        if finding is not None:
            processes = finding.processes(program.mesh)
            message = sentence(step, finding, processes)
            reporter.event("corrupted", step=step, processes=processes, message=message)
            raise Corrupted(message, processes)
    seconds, amounts = device_seconds(jax.local_devices())
    rates = rates_of(place.spec.accelerator, place.context.topology.slices)
    nominal = (0.0, 0.0, 0.0) if rates is None else (rates.flops, rates.memory, 0.0)
    speeds = dict(zip(("flops", "memory_bandwidth", "host_bandwidth"), amounts / seconds, strict=False))
    reporter.event(
        "devices",
        **{name: round(float(speed)) for name, speed in speeds.items()},
        promised_flops=nominal[0] or None,
        promised_memory_bandwidth=nominal[1] or None,
    )
    promised = [amount / speed if speed else np.inf for amount, speed in zip(amounts, nominal, strict=False)]
    found = slow_at_start(place.processes.gathered(seconds.tolist()), promised, recovery.straggler.factor)
    if found is None:
        return None
    slow = SlowProcess(process=found[0], step=step, ratio=round(found[1], 2))
    reporter.knows(slow=slow)
    if place.processes.is_main:
        reporter.event("slow", slow, slow_process=slow.process)
    return slow


def device_seconds(devices: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The duration of a product, of a pass over memory and of a copy from the host, on all devices at the same time;
    and for each its operations or bytes on one device. Of processors, without the copy, and on the first device: all
    are the same cores and memory.
    """
    on_cpu = devices[0].platform == "cpu"
    side, size, kind = (
        (_SIDE_ON_CPU, _BYTES_ON_CPU, jax.numpy.float32) if on_cpu else (_SIDE, _BYTES, jax.numpy.bfloat16)
    )
    devices = devices[:1] if on_cpu else devices
    host = np.random.default_rng(0).random(size // 4, np.float32)
    kept = [jax.device_put(host, device) for device in devices]
    matrices = [jax.jit(lambda x: x[: side**2].reshape(side, side).astype(kind))(one) for one in kept]
    multiply, add = jax.jit(jax.numpy.matmul), jax.jit(lambda x: x + 1)
    calls = [
        lambda: [multiply(one, one) for one in matrices],
        lambda: [add(one) for one in kept],
        lambda: [jax.device_put(host, device) for device in devices],
    ]
    seconds = np.array([_mean_seconds(call) for call in calls[: 2 if on_cpu else 3]])
    return seconds, np.array([2.0 * side**3, 2.0 * size, size])[: len(seconds)]


def _mean_seconds(call: Any) -> float:
    jax.block_until_ready(call())
    began, times = time.perf_counter(), 0
    while time.perf_counter() - began < _SECONDS:
        jax.block_until_ready([call() for _ in range(_TOGETHER)])
        times += _TOGETHER
    return (time.perf_counter() - began) / times
