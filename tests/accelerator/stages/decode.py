"""Text from the nanochat model of depth 12, bfloat16: Halcyon's engine, and the original's where there is a checkout.

``prefill`` is the time of texts of one token: of the prompt, which all texts share. ``decode`` is the time of the
further tokens. Both sides have random weights, the same lengths, and no choice by chance.
"""

from __future__ import annotations

import functools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np

from halcyon.inference import Engine, Sampling
from halcyon.models import build_model
from halcyon_api.spec.families.nanochat import NanochatSpec
from tests.accelerator.measure import Options
from tests.accelerator.peers import original
from tests.accelerator.rows import Row

DTYPE = "bfloat16"


def rows(options: Options) -> Iterator[Row]:
    """A row for each side and number of texts."""
    depth, vocabulary, length = options.pick((12, 32_768, 4096), (2, 512, 256))
    prompt_tokens, tokens = options.pick((1024, 256), (32, 8))
    counts = options.pick((1, 8, 64), (1, 4))
    vocab, position = hax.make_axes(vocab=vocabulary, position=length)
    spec = NanochatSpec(depth=depth)
    made = jax.jit(functools.partial(build_model, spec, vocab, position))(key=jax.random.key(0))
    model: Any = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), made)
    prompts = [np.random.default_rng(seed).integers(1, vocabulary, prompt_tokens).tolist() for seed in range(4)]
    for count in counts:
        engine = Engine(model, slots=count, length=prompt_tokens + tokens, compute_dtype=DTYPE, share=False)
        times = [
            (_halcyon(engine, prompts[turn], count, 1), _halcyon(engine, prompts[turn], count, tokens))
            for turn in range(4)
        ][1:]
        yield _row("Halcyon", count, tokens, times)
    question = {"prompt": prompts[0], "tokens": tokens, "temperature": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "question"
        path.write_text(json.dumps(question))
        with original(options, "nanochat_engine_child.py", (depth, vocabulary, length, path)) as peer:
            if peer is None:
                return
            for count in counts:
                found = [peer.ask(str(count)) for _ in range(options.pick(3, 2))][1:]
                yield _row(
                    "nanochat", count, tokens, [(one["first"][0], one["first"][0] + one["later"][0]) for one in found]
                )


def _halcyon(engine: Engine, prompt: list[int], count: int, tokens: int) -> float:
    """Seconds for texts of this number of tokens, with the prompt."""
    began = time.perf_counter()
    for row in range(count):
        engine.submit(prompt, Sampling(tokens, 0.0, seed=row))
    found = 0
    while found < count * tokens:
        found += len(engine.step())
    return time.perf_counter() - began


def _row(side: str, count: int, tokens: int, times: list[tuple[float, float]]) -> Row:
    """The row of a side, from the seconds of texts of one token, and of all tokens."""
    first, whole = (statistics.median(part) for part in zip(*times, strict=True))
    later = whole - first
    return {
        "engine": side,
        "texts": count,
        "prefill ms": first * 1e3,
        "decode ms a step": later / (tokens - 1) * 1e3,
        "decode tokens/s": count * (tokens - 1) / later,
    }
