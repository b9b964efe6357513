"""Memory and time of one call of attention, forward and backward, causal, in blocks of 512.

**Memory**, as the compiled program reports it, for each implementation and length; one row of a batch. Nothing runs:
the figures are the program's arguments, results and scratch space. With ``--context 8`` a ring of virtual devices
shares the positions, and the figures are those of one device.

**Time** of ``blockwise`` for rows that hold documents apart, in turns with the same call that visits the blocks of all
earlier documents, and with one range of blocks for all rows. Processor time, which does not count other programs on a
busy machine; medians of the pairs.

    python tests/bench/bench_attention.py [--lengths 8192,16384,32768] [--heads 8] [--kv-heads 2] [--head-size 128]
    [--context 8]
        [--rows 2] [--row 8192] [--document 1000] [--pairs 5]
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from haliax import NamedArray

from halcyon.models.parts.attention import attention
from halcyon.models.parts.attention_choice import Implementation, Target, attending
from halcyon.models.parts.masks import Causal, Mask, Segments, Window
from halcyon.parallel.axes import COMPUTE_AXES, named_sharding
from halcyon.parallel.device_mesh import build_mesh
from halcyon.parallel.partition import computing
from halcyon_api.spec.mesh import ResolvedMesh

MaskOf = Callable[[NamedArray], Mask]
"""Makes the mask of a call from the ids of its documents."""


class Everywhere(Segments):
    """Documents apart, without a bound of the blocks that a query sees."""

    block_ranges = Mask.block_ranges
    has_block_ranges = Mask.has_block_ranges


def arguments(rows: int, length: int, options: argparse.Namespace) -> tuple[tuple[hax.Axis, ...], ...]:
    """The axes of query, key and value, and of the ids of documents."""
    position, batch, size = (
        hax.Axis("position", length),
        hax.Axis("batch", rows),
        hax.Axis("head_size", options.head_size),
    )
    heads, group = (
        hax.Axis("kv_heads", options.kv_heads),
        hax.Axis("q_heads_per_group", options.heads // options.kv_heads),
    )
    of_keys = (batch, position, heads, size)
    return (batch, position, heads, group, size), of_keys, of_keys, (batch, position)


def compiled(
    axes: tuple[tuple[hax.Axis, ...], ...], implementation: Implementation, mask_of: MaskOf, devices: int = 1
) -> jax.stages.Compiled:
    """The program of the gradients of one call."""
    mesh = build_mesh(ResolvedMesh(replica=1, data=1, fsdp=1, context=devices, tensor=1), jax.devices()[:devices])
    (_, position, *_, size), *_ = axes

    def shape(axes: tuple[hax.Axis, ...], dtype: Any) -> Any:
        names = tuple(axis.name for axis in axes)
        array: Any = jax.ShapeDtypeStruct(
            tuple(axis.size for axis in axes), dtype, sharding=named_sharding(mesh, names, COMPUTE_AXES)
        )
        return NamedArray(array, names)

    def loss(query: Any, key: Any, value: Any, ids: Any) -> jax.Array:
        key, value = (x.rename({"position": "key_position"}) for x in (key, value))
        keys = position.alias("key_position")
        named: Any = {"position": position, "key_position": keys, "head_size": size}
        out = attention(query, key, value, mask_of(ids), implementation=implementation, **named)
        return hax.sum(out.astype(jnp.float32)).scalar()

    *arrays, ids = axes
    with computing(mesh) if devices > 1 else contextlib.nullcontext():
        shapes = (*(shape(axes, jnp.bfloat16) for axes in arrays), shape(ids, jnp.int32))
        return jax.jit(jax.grad(loss, (0, 1, 2)), keep_unused=True).lower(*shapes).compile()


def print_memory(options: argparse.Namespace) -> None:
    """The scratch space of each implementation."""
    cases: list[tuple[str, Implementation, MaskOf, int]] = [
        ("reference", "reference", lambda ids: Causal(), 1),
        ("blockwise", "blockwise", lambda ids: Causal(), 1),
        ("blockwise, window 1024", "blockwise", lambda ids: Causal() & Window(1024), 1),
        ("blockwise, documents", "blockwise", lambda ids: Causal() & Segments(ids), 1),
        (f"ring of {options.context}, one device", "ring", lambda ids: Causal(), options.context),
    ]
    print(
        f"{'scratch space, MB':32}"
        + "".join(f"{int(length):>12,}" for length in options.lengths.split(","))
        + "   last / first"
    )
    for name, implementation, mask_of, devices in cases:
        sizes = []
        began = time.perf_counter()
        for length in options.lengths.split(","):
            found = compiled(arguments(1, int(length), options), implementation, mask_of, devices).memory_analysis()
            sizes.append(found.temp_size_in_bytes / 1e6)
        seconds = time.perf_counter() - began
        cells = "".join(f"{size:12,.0f}" for size in sizes)
        print(f"{name:32}{cells}   {sizes[-1] / sizes[0]:.1f}   (compiled in {seconds:.0f} s)", flush=True)


def print_time(options: argparse.Namespace) -> None:
    """The seconds of ``blockwise`` with documents apart, as pairs."""
    axes, noise = arguments(options.rows, options.row, options), np.random.default_rng(0)
    # Documents begin elsewhere in each row.
    starts = np.arange(options.rows)[:, None] * options.document // options.rows
    ids = ((np.arange(options.row) + starts) // options.document).astype(np.int32)
    arrays = [
        hax.named(jnp.asarray(noise.standard_normal([axis.size for axis in one]), jnp.bfloat16), one)
        for one in axes[:3]
    ]
    given = (*arrays, hax.named(ids, axes[3]))
    cases: list[tuple[str, MaskOf, str]] = [
        ("all blocks of the triangle", lambda ids: Causal() & Everywhere(ids), "cpu"),
        ("one range for all rows", lambda ids: Causal() & Segments(ids), "tpu"),
        ("a range for each row", lambda ids: Causal() & Segments(ids), "cpu"),
        ("no documents", lambda ids: Causal(), "cpu"),
    ]
    programs: dict[str, jax.stages.Compiled] = {}
    for name, mask_of, platform in cases:
        with attending("blockwise", Target(platform)):
            programs[name] = compiled(axes, "blockwise", mask_of)
    found: dict[str, list[float]] = {name: [] for name in programs}
    for pair in range(options.pairs + 1):
        for name, program in programs.items():
            began = time.process_time()
            jax.block_until_ready(program(*given))
            if pair:  # The first round warms up.
                found[name].append(time.process_time() - began)
    print(
        f"{options.rows} rows of {options.row:,} positions, documents of {options.document:,}: processor seconds, and "
        "by the first line"
    )
    first = next(iter(found.values()))
    for name, seconds in found.items():
        ratios = [one / other for one, other in zip(seconds, first, strict=True)]
        print(
            f"{name:32}{statistics.median(seconds):12.2f}{statistics.median(ratios):12.3f}  ({min(ratios):.3f} to "
            f"{max(ratios):.3f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", default="8192,16384,32768")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--head-size", type=int, default=128)
    parser.add_argument("--context", type=int, default=8)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--row", type=int, default=8192)
    parser.add_argument("--document", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.context)
    print_memory(options)
    print_time(options)


if __name__ == "__main__":
    main()
