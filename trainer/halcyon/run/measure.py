"""The task ``measure``: how fast collectives are over the devices of a run, beside what the hardware table promises.

It trains nothing, and reads and writes no root. It takes the devices that a training would take, so it shows what the
training would find: on one machine, on several hosts, or in pods.
"""

import socket
from collections.abc import Mapping

import jax

from halcyon.checkpoint.processes import gather_texts
from halcyon.host.memory import machine_memory
from halcyon.parallel.collectives import AXES, FEWEST, KINDS, SIZES, Islands, Over
from halcyon.run.context import Context, Surroundings, check_context
from halcyon.run.place import Place, session
from halcyon.step.hlo.work import Rates
from halcyon.step.speeds import rates_of
from halcyon.telemetry import RunReporter

_MEMORY_SHARE = 16
"""The part of a device's memory that the larger array of a collective takes at most: there are a few copies of it."""
_LONGEST_SECONDS = 0.25
"""Longest duration of a collective after which one that is 16 times as large is measured."""


def measure_network(
    context: Context,
    reporter: RunReporter,
    around: Surroundings,
) -> str:
    """Measure collectives within each host (of TPUs, slice), between these, and over all devices.

    Args:
        context: The run and this process's place in it.
        reporter: Receives each measurement.
        around: The program around it.

    Returns:
        One sentence that names what is slow.

    Raises:
        TrainerExit: The devices cannot be used as the document says.
    """
    check_context(context)
    with session(context, reporter, around) as joined:
        place, mesh = joined.lay_out()
        processes, rates = place.processes, rates_of(place.spec.accelerator, place.context.topology.slices)
        island, devices = _island(place), jax.local_devices()
        memory = (devices[0].memory_stats() or {}).get("bytes_limit") or (machine_memory() or 0) // len(devices)
        most = -processes.greatest(-memory / _MEMORY_SHARE)[0]  # on any device
        islands = Islands(mesh.devices.ravel().tolist(), mesh.size // island, processes)
        names, slow = gather_texts(processes, socket.gethostname()), dict[int, str]()
        for over in AXES:
            promised = rates and _promised(rates, over, island)
            for kind in KINDS:
                for size in SIZES:
                    reporter.stage("evaluating")
                    found = islands.measure(kind, over, size) if size <= most else None
                    if found is None:
                        break
                    reporter.event("collective", found, promised=promised)
                    slow |= {one: f"{kind} within it takes {times:.1f}" for one, times in found.slow.items()}
                    if found.seconds > _LONGEST_SECONDS:
                        break
        reporter.stage("evaluating")
        slow |= {
            one: f"its fastest exchange with another takes {times:.1f}" for one, times in islands.exchange().items()
        }
        return verdict(
            {", ".join(f"process {i} on {names[i]}" for i in islands.members[one]): slow[one] for one in slow},
            len(islands.members),
        )


def verdict(slow: Mapping[str, str], islands: int) -> str:
    """The result in one sentence.

    Args:
        slow: What is slow, and what takes how many times as long.
        islands: Number of hosts, or of slices of TPUs.
    """
    if not slow and islands < FEWEST:
        return f"the collectives are measured; a slow host or slice can be named where there are at least {FEWEST}"
    if not slow:
        return "the collectives are measured, and no host or slice is slower than the others"
    return "; ".join(f"{name} is slow: {what} times as long as that of the others" for name, what in slow.items())


def _island(place: Place) -> int:
    """Devices of an island: those of a slice of TPUs, or of a host."""
    topology, accelerator = place.context.topology, place.spec.accelerator
    if accelerator.row.family == "tpu":
        return topology.devices // topology.slices
    has_hosts = place.processes.distributed or accelerator.type == "cpu"
    return accelerator.resolve().devices_per_host if has_hosts else topology.devices


def _promised(rates: Rates, over: Over, island: int) -> float | None:
    """Bytes in a second over the links of a device, by the hardware table; None: it has no figure.

    Over all devices, each island sends once what a device sends to the next one, over the links of all its devices.
    """
    if over == "within":
        return rates.links
    if rates.network is None:
        return None
    return rates.network if over == "between" else min(rates.links, island * rates.network)
