"""Memory of one call of attention, forward and backward, as the compiled program reports it, for each implementation and length.

One row of a batch, causal, in blocks of 512. Nothing runs: the figures are the program's arguments, results and scratch space. With
``--context 8`` a ring of virtual devices shares the positions, and the figures are those of one device.

    python tests/bench/bench_attention.py [--lengths 8192,16384,32768] [--heads 8] [--kv-heads 2] [--head-size 128] [--context 8]
"""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp

from halcyon.models.parts.attention import attention
from halcyon.models.parts.attention_choice import Implementation
from halcyon.models.parts.masks import Causal, Mask, Window
from halcyon.parallel.axes import COMPUTE_AXES, named_sharding
from halcyon.parallel.mesh import build_mesh
from halcyon.parallel.partition import computing
from halcyon_api.spec.mesh import ResolvedMesh


def compiled(length: int, options: argparse.Namespace, implementation: Implementation, mask: Mask, devices: int) -> jax.stages.Compiled:
    """The program of the gradients of one call."""
    position, batch, size = hax.Axis("position", length), hax.Axis("batch", 1), hax.Axis("head_size", options.head_size)
    heads, group = hax.Axis("kv_heads", options.kv_heads), hax.Axis("q_heads_per_group", options.heads // options.kv_heads)
    keys = position.alias("key_position")
    mesh = build_mesh(ResolvedMesh(replica=1, data=1, fsdp=1, context=devices, tensor=1), jax.devices()[:devices])

    def shape(*axes: hax.Axis) -> Any:
        sharding = named_sharding(mesh, tuple(axis.name for axis in axes), COMPUTE_AXES)
        array: Any = jax.ShapeDtypeStruct(tuple(axis.size for axis in axes), jnp.bfloat16, sharding=sharding)
        return hax.NamedArray(array, tuple(axis.name for axis in axes))

    def loss(query: Any, key: Any, value: Any) -> jax.Array:
        key, value = (x.rename({"position": "key_position"}) for x in (key, value))
        out = attention(query, key, value, mask, position=position, key_position=keys, head_size=size, implementation=implementation)
        return hax.sum(out.astype(jnp.float32)).scalar()

    arguments = (shape(batch, position, heads, group, size), shape(batch, position, heads, size), shape(batch, position, heads, size))
    with computing(mesh) if devices > 1 else contextlib.nullcontext():
        return jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arguments).compile()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", default="8192,16384,32768")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--head-size", type=int, default=128)
    parser.add_argument("--context", type=int, default=8)
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.context)
    cases: list[tuple[str, Implementation, Mask, int]] = [
        ("reference", "reference", Causal(), 1),
        ("blockwise", "blockwise", Causal(), 1),
        ("blockwise, window 1024", "blockwise", Causal() & Window(1024), 1),
        (f"ring of {options.context}, one device", "ring", Causal(), options.context),
    ]
    print(f"{'scratch space, MB':32}" + "".join(f"{int(length):>12,}" for length in options.lengths.split(",")) + "   last / first")
    for name, implementation, mask, devices in cases:
        sizes = []
        began = time.perf_counter()
        for length in options.lengths.split(","):
            found = compiled(int(length), options, implementation, mask, devices).memory_analysis()
            sizes.append(found.temp_size_in_bytes / 1e6)
        seconds = time.perf_counter() - began
        cells = "".join(f"{size:12,.0f}" for size in sizes)
        print(f"{name:32}{cells}   {sizes[-1] / sizes[0]:.1f}   (compiled in {seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
