"""Forward and backward pass of Halcyon's Llama, compared with the same mathematics written by hand in ``jax.numpy``.

The handwritten form is measured twice: as a scan over the layers, and unrolled, as a loop in Python over layers that
have their own arrays. All are compiled with the options of the trainer. They run in turns in one process on one pinned
processor, with the variables of the trainer's image, so that a busy machine slows all equally. Compare the ratios of
the medians.

    python tests/bench/bench_model.py [--layers 4] [--hidden 256] [--heads 4] [--length 256] [--batch 8] [--vocab 8192]
    [--rounds 15]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
from step_turns import Seconds, in_turns, ratio, seconds, start_on_one_processor, table

from halcyon.models import Inputs, build_model, flops_per_token
from halcyon.step.compilation import compiler_options
from halcyon.step.objectives.next_token import next_token_sums
from halcyon_api.spec.families.llama import LlamaSpec
from halcyon_api.spec.model import ModelSpec

Arrays = dict[str, Any]


def handwritten_loss(
    parameters: Arrays, tokens: jax.Array, targets: jax.Array, spec: LlamaSpec, dtype: Any
) -> jax.Array:
    """Mean next-token loss in a simple implementation of plain einsums: a scan over stacked blocks, or a loop over a
    list of blocks.
    """
    length, head_size = tokens.shape[1], spec.hidden_size // spec.num_attention_heads
    kv, group = spec.key_value_heads, spec.num_attention_heads // spec.key_value_heads
    frequencies = spec.rope_theta ** (-jnp.arange(head_size // 2) / (head_size // 2))
    angles = jnp.arange(length)[:, None] * frequencies
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    causal = jnp.tril(jnp.ones((length, length), bool))

    def norm(x: jax.Array, scale: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        return (wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + spec.rms_norm_eps) * scale).astype(
            x.dtype
        )

    def rotate(x: jax.Array) -> jax.Array:  # [batch, position, heads, head size]
        first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        c, s = cosine[:, None, :], sine[:, None, :]
        return jnp.concatenate((first * c - second * s, second * c + first * s), axis=-1).astype(x.dtype)

    def block(x: jax.Array, w: Arrays) -> tuple[jax.Array, None]:
        batch = x.shape[0]
        h = norm(x, w["attention_norm"])
        q = rotate((h @ w["q"].astype(dtype)).reshape(batch, length, kv * group, head_size)).reshape(
            batch, length, kv, group, head_size
        )
        k = rotate((h @ w["k"].astype(dtype)).reshape(batch, length, kv, head_size))
        v = (h @ w["v"].astype(dtype)).reshape(batch, length, kv, head_size)
        scores = jnp.einsum("bqkgh,bskh->bkgqs", q, k, preferred_element_type=jnp.float32) * head_size**-0.5
        weights = jax.nn.softmax(jnp.where(causal, scores, -1e30), axis=-1).astype(dtype)
        attended = jnp.einsum("bkgqs,bskh->bqkgh", weights, v).reshape(batch, length, -1)
        x = x + attended @ w["o"].astype(dtype)
        h = norm(x, w["mlp_norm"])
        return x + (jax.nn.silu(h @ w["gate"].astype(dtype)) * (h @ w["up"].astype(dtype))) @ w["down"].astype(
            dtype
        ), None

    x = parameters["embedding"].astype(dtype)[tokens]
    if isinstance(parameters["blocks"], list):
        for weights in parameters["blocks"]:
            x, _ = block(x, weights)
    else:
        x, _ = jax.lax.scan(block, x, parameters["blocks"])
    logits = jnp.matmul(
        norm(x, parameters["norm"]), parameters["head"].astype(dtype), preferred_element_type=jnp.float32
    )
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)
    return -jnp.mean(picked)


def handwritten_parameters(spec: LlamaSpec, vocab: int, *, unrolled: bool) -> Arrays:
    """Random parameters of the same sizes; unrolled: a list of blocks instead of stacked arrays."""
    hidden, kv = spec.hidden_size, spec.hidden_size // spec.num_attention_heads * spec.key_value_heads
    shapes = {
        "q": (hidden, hidden),
        "k": (hidden, kv),
        "v": (hidden, kv),
        "o": (hidden, hidden),
        "gate": (hidden, spec.intermediate_size),
        "up": (hidden, spec.intermediate_size),
        "down": (spec.intermediate_size, hidden),
    }
    keys = iter(jax.random.split(jax.random.key(0), len(shapes) + 2))
    blocks = {
        name: jax.random.normal(next(keys), (spec.num_hidden_layers, *shape)) * 0.02 for name, shape in shapes.items()
    }
    blocks |= {name: jnp.ones((spec.num_hidden_layers, hidden)) for name in ("attention_norm", "mlp_norm")}
    return {
        "embedding": jax.random.normal(next(keys), (vocab, hidden)) * 0.02,
        "head": jax.random.normal(next(keys), (hidden, vocab)) * 0.02,
        "norm": jnp.ones(hidden),
        "blocks": [{name: x[layer] for name, x in blocks.items()} for layer in range(spec.num_hidden_layers)]
        if unrolled
        else blocks,
    }


def compiled(name: str, function: Callable[..., Any], *arguments: Any) -> Callable[[], dict[str, Seconds]]:
    """A function that times one run of the compiled function. Prints the seconds of tracing and of compiling."""
    started = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    traced = time.perf_counter()
    executable = lowered.compile(compiler_options=compiler_options())
    print(f"{name}: traced in {traced - started:.2f} s, compiled in {time.perf_counter() - traced:.2f} s")
    return lambda: {name: seconds(lambda: jax.block_until_ready(executable(*arguments)))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = (
        ("layers", 4),
        ("hidden", 256),
        ("heads", 4),
        ("length", 256),
        ("batch", 8),
        ("vocab", 8192),
        ("rounds", 15),
    )
    for name, default in defaults:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--compute", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    start_on_one_processor()

    spec = LlamaSpec(
        num_hidden_layers=options.layers,
        hidden_size=options.hidden,
        intermediate_size=-(-options.hidden * 8 // 3 // 16) * 16,
        num_attention_heads=options.heads,
    )
    batch, position, vocab = (
        hax.Axis("batch", options.batch),
        hax.Axis("position", options.length),
        hax.Axis("vocab", options.vocab),
    )
    text = hax.random.randint(jax.random.key(1), (batch, position), 0, options.vocab)
    targets = hax.roll(text, -1, position)
    weights = hax.ones((batch, position))

    def halcyon_loss(model: Any, tokens: Any, targets: Any, weights: Any) -> jax.Array:
        total, weight, *_ = next_token_sums(model, Inputs(tokens), targets, weights, compute_dtype=options.compute)
        return total / weight

    def plain_loss(parameters: Arrays, tokens: jax.Array, targets: jax.Array) -> jax.Array:
        return handwritten_loss(parameters, tokens, targets, spec, jnp.dtype(options.compute))

    model = build_model(ModelSpec(llama=spec), vocab, position, key=jax.random.key(0))
    turns = {"halcyon": compiled("halcyon", jax.value_and_grad(halcyon_loss), model, text, targets, weights)}
    for name in ("scan", "unrolled"):
        parameters = handwritten_parameters(spec, options.vocab, unrolled=name == "unrolled")
        turns[name] = compiled(name, jax.value_and_grad(plain_loss), parameters, text.array, targets.array)
    found = in_turns(turns, options.rounds)
    tokens = options.batch * options.length
    print(f"{flops_per_token(ModelSpec(llama=spec), options.length, options.vocab) * tokens / 1e9:.1f} GFLOP a step")
    print(table(found, tokens))
    for name in ("scan", "unrolled"):
        print(f"halcyon / {name} by hand: {ratio(found, ['halcyon'], [name])}")


if __name__ == "__main__":
    main()
