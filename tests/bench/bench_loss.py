"""Memory of the loss with a large vocabulary, forward and backward, as the compiled program reports it, for each
length.

`cross_entropy` computes the logits of a block of positions at a time; the plain form computes all logits at once, and
JAX differentiates it. Nothing runs: the figures are the program's scratch space, without arguments and results.

    python tests/bench/bench_loss.py [--lengths 1024,4096,16384] [--vocabulary 262144] [--width 1024]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp

from halcyon.models.log_probs import cross_entropy
from halcyon.models.softmax import Softmax
from halcyon.step.compilation import compiler_options


def blocks_loss(features: Any, head: Any, targets: Any, weights: Any) -> jax.Array:
    """Halcyon's loss."""
    return cross_entropy(features, head, targets, weights, Softmax(head.axes[0], head.axes[1])).total


def plain_loss(features: Any, head: Any, targets: Any, weights: Any) -> jax.Array:
    """The same loss with all logits at once."""
    logits = jnp.matmul(features.array, head.array.astype(features.dtype), preferred_element_type=jnp.float32)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets.array[..., None], axis=-1)[..., 0]
    return -jnp.sum(picked * weights.array)


def scratch(loss: Callable[..., jax.Array], length: int, options: argparse.Namespace) -> int:
    """Bytes of scratch space of the program of the gradients."""
    batch, position = hax.Axis("batch", 1), hax.Axis("position", length)
    embed, vocab = hax.Axis("embed", options.width), hax.Axis("vocab", options.vocabulary)

    def shape(dtype: Any, *axes: hax.Axis) -> Any:
        array: Any = jax.ShapeDtypeStruct(tuple(axis.size for axis in axes), dtype)
        return hax.NamedArray(array, tuple(axis.name for axis in axes))

    arguments = (
        shape(jnp.bfloat16, batch, position, embed),
        shape(jnp.float32, embed, vocab),
        shape(jnp.int32, batch, position),
        shape(jnp.float32, batch, position),
    )
    lowered = jax.jit(jax.grad(loss, (0, 1))).lower(*arguments)
    return lowered.compile(compiler_options=compiler_options()).memory_analysis().temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="1024,4096,16384")
    parser.add_argument("--vocabulary", type=int, default=262_144)
    parser.add_argument("--width", type=int, default=1024)
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    lengths = [int(length) for length in options.lengths.split(",")]
    print(f"{'scratch space, MB':20}" + "".join(f"{length:>12,}" for length in lengths) + "   last / first")
    for name, loss in (("in blocks", blocks_loss), ("plain", plain_loss)):
        sizes = [scratch(loss, length, options) / 1e6 for length in lengths]
        print(f"{name:20}" + "".join(f"{size:12,.0f}" for size in sizes) + f"   {sizes[-1] / sizes[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
