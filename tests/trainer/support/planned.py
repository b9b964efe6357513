"""Steps of documents on meshes of this machine's processor: what `halcyon plan` says of them, and what they take.

A process for each document measures how fast a device multiplies matrices, copies memory and exchanges arrays, and
then runs steps of the document. It counts the memory of the process above that of the state, and the collectives of
the program that ran. `halcyon plan` gets these speeds.

    python -m tests.trainer.support.planned DOCUMENT STEPS
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PEAKS = ("device-flops", "device-memory", "device-links")
_FIXED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""The C library gives freed memory back to the system at once, so the system's count of it is the process's."""
_MESHES = ({"fsdp": 2}, {"tensor": 2}, {"data": 2}, {"fsdp": 4}, {"fsdp": 2, "tensor": 2}, {"fsdp": 2, "context": 2})
_TIMES = 10
_EXPERTS = {"numExperts": 4, "numExpertsPerTok": 2, "moeIntermediateSize": 128}


def drawn(noise: random.Random, scale: int) -> dict[str, Any]:
    """A document of the grid.

    Args:
        noise: Draws it.
        scale: Factor of the widths.
    """
    family, mesh = noise.choice(("llama", "qwen3", "gemma3", "olmo2", "qwen3Moe", "gpt2")), noise.choice(_MESHES)
    layers, width, length = noise.choice((2, 4)), scale * noise.choice((256, 384)), noise.choice((128, 256))
    sizes: dict[str, Any] = {"numHiddenLayers": layers, "hiddenSize": width, "numAttentionHeads": 4}
    if family != "gpt2":
        sizes["intermediateSize"] = 4 * width
    sizes |= {"qwen3": {"headDim": width // 4}, "gemma3": {"headDim": width // 4}}.get(family, {})
    sizes |= _EXPERTS | {"headDim": width // 4} if family == "qwen3Moe" else {}
    devices = 1
    for size in mesh.values():
        devices *= size
    return {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": "drawn"},
        "spec": {
            "accelerator": {"type": "cpu", "topology": f"1x{devices}"},
            "mesh": {"ici": mesh},
            "model": {"family": family} | sizes,
            "tokenizer": {"bpe": {"vocabSize": noise.choice((4096, 8192))}},
            "data": {"sources": [{"name": "random", "stdlib": {}}]},
            "optimizer": {"learningRate": 0.001, noise.choice(("adamw", "lion", "muon")): {}},
            "trainer": {
                "steps": 100,
                "batchSize": noise.choice((8, 16)),
                "sequenceLength": length,
                "microbatches": noise.choice((1, 2)),
                "remat": noise.choice(("none", "dots", "full")),
            },
            "checkpoint": {"root": "file:///unused"},
        },
    }


def measured_peaks(mesh: Any) -> Callable[[], dict[str, float]]:
    """A function that measures how fast each device is while all of them are busy: operations, bytes of memory, and
    bytes sent, in a second.
    """
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    names, devices = mesh.axis_names, mesh.size
    rows = NamedSharding(mesh, PartitionSpec(names))
    side, length = 768, 2**22

    def often(function: Callable[[Any], Any], *shape: int) -> Callable[[], Any]:
        # One program calls it many times: memory that the system gives a program for the first time is slow.
        program = jax.jit(
            jax.shard_map(
                lambda x: jax.lax.fori_loop(0, _TIMES, lambda _, y: function(y), x),
                mesh=mesh,
                in_specs=PartitionSpec(names),
                out_specs=PartitionSpec(names),
            )
        )
        run = functools.partial(program, jax.device_put(jnp.zeros(shape, jnp.float32), rows))
        jax.block_until_ready(run())
        return run

    def total(x: Any) -> Any:
        return jax.lax.pcast(jax.lax.psum(x, names), names, to="varying")

    multiply = often(lambda x: x @ x, devices * side, side)
    add, reduce = often(lambda x: x + 1, devices * length), often(total, devices * length)
    work = {
        "device-flops": (multiply, 2 * side**3),
        "device-memory": (add, 2 * 4 * length),
        "device-links": (reduce, 2 * 4 * length * (devices - 1) / devices),
    }
    return lambda: {name: _TIMES * amount / seconds(run) for name, (run, amount) in work.items()}


def seconds(run: Callable[[], Any]) -> float:
    """The time of a call."""
    import jax

    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def own_bytes(name: str) -> int:
    """A number of ``/proc/self/status``, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(f"{name}:"))


def ran(path: Path, steps: int) -> dict[str, Any]:
    """Run steps of a document in this process, and measure them."""
    import jax
    import numpy as np

    from halcyon.commands.planning.compiled import virtual_mesh
    from halcyon.step.device_use import plan_of, share_bytes
    from halcyon.step.program import build_program
    from halcyon.step.state import initial_state
    from halcyon_api.mesh import document_vocabulary
    from halcyon_api.reading import parse_run

    spec = parse_run(yaml.safe_load(path.read_text(encoding="utf-8"))).spec
    mesh, vocabulary, trainer = virtual_mesh(spec), document_vocabulary(spec.tokenizer), spec.trainer
    measure = measured_peaks(mesh)
    program = build_program(spec, vocabulary, mesh)
    step = program.compile_step(trainer.batch_size, trainer.sequence_length)
    noise, shapes = np.random.default_rng(0), program.batch_shapes(trainer.batch_size, trainer.sequence_length)
    ids = noise.integers(0, vocabulary, next(iter(shapes.values())).shape)
    values = {"tokens": ids, "targets": ids, "weights": np.ones(ids.shape)}
    batch = {
        name: jax.device_put(values.get(name, np.zeros(ids.shape)).astype(shape.dtype), shape.sharding)
        for name, shape in shapes.items()
    }
    control = jax.device_put(np.zeros(mesh.size, np.int32), program.control_sharding)
    state = jax.block_until_ready(initial_state(program.build_state, program.template))
    state, _ = jax.block_until_ready(step(state, batch, control))
    times: list[float] = []
    above: list[int] = []
    peaks: list[dict[str, float]] = []
    for _ in range(steps):
        peaks.append(measure())  # between the steps, because other programs slow the machine down at times
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before, began = own_bytes("VmRSS"), time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, batch, control))
        times.append(time.perf_counter() - began)
        above.append(own_bytes("VmHWM") - before)
        del metrics
    plan = plan_of(program, step, trainer.batch_size, trainer.sequence_length, remat=trainer.remat, memory_bytes=None)
    arguments = share_bytes((program.template, shapes))
    return {
        "peaks": {name: statistics.median(each[name] for each in peaks) for name in PEAKS},
        "memory": arguments + statistics.median(above) / mesh.size,
        "seconds": statistics.median(times),
        "sent": sum(row.sent_bytes for row in plan.traffic),
    }


def called(module: str, *arguments: object) -> dict[str, Any]:
    """The line of JSON that a process prints last."""
    line = [sys.executable, *module.split(), *map(str, arguments)]
    ended = subprocess.run(line, env=os.environ | _FIXED, capture_output=True, text=True, check=False)
    if not ended.stdout.strip():
        raise SystemExit(f"{' '.join(line)}: {ended.stderr[-2000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Planned:
    """What was planned for a document, and what was measured. Bytes of a device, and seconds.

    Attributes:
        memory: Of the step.
        time: Of the step.
        sent: Bytes that a device sends.
    """

    memory: tuple[float, float]
    time: tuple[float, float]
    sent: tuple[int, int]


def planned(document: dict[str, Any], steps: int) -> Planned:
    """Plan a document, and run it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        measured = called("-m tests.trainer.support.planned", path, steps)
        assumed = [f"{name}={measured['peaks'][name]}" for name in PEAKS]
        plan = called("-m halcyon.commands.main plan", path, "--json", *(f"--assume={each}" for each in assumed))
    numbers = plan["plan"]
    return Planned(
        (numbers["memory of a device"]["the whole step"]["value"], measured["memory"]),
        (numbers["step"]["time of a step"]["value"], measured["seconds"]),
        (sum(each["sent_bytes"] for each in plan["program"]["traffic"]), measured["sent"]),
    )


def title(document: dict[str, Any]) -> str:
    """A document in a few words."""
    spec = document["spec"]
    sizes = spec["model"]
    layers = sizes["numHiddenLayers"]
    mesh = " x ".join(f"{name} {size}" for name, size in spec["mesh"]["ici"].items())
    rule = next(name for name in spec["optimizer"] if name != "learningRate")
    trainer = spec["trainer"]
    tokens = (
        f"{trainer['microbatches']} x {trainer['batchSize'] // trainer['microbatches']} x {trainer['sequenceLength']}"
    )
    return f"{sizes['family']}, {layers} x {sizes['hiddenSize']}, {mesh}, {rule}, {tokens}, remat {trainer['remat']}"


if __name__ == "__main__":
    print(json.dumps(ran(Path(sys.argv[1]), int(sys.argv[2]))))
