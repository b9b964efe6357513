"""The time of text from a model on one processor: Halcyon's engine, and that of nanochat, in turns.

Both sides compute the same model: nanochat's at the given depth, with its default window pattern and vocabulary, random
weights, float32. A turn computes the texts of some rows: the same prompt, and for each row the same number of tokens.
``first`` is the time until each row has its first token, ``later`` the time of all further tokens. nanochat computes
the prompt once for all rows.

    python tests/bench/bench_engine.py --nanochat CHECKOUT [--python PYTHON] [--rounds 5] [--rows 1 8] [--weights
    float32 int8]

CHECKOUT is a checkout of karpathy/nanochat, PYTHON an interpreter with torch, jinja2 and filelock. Without a checkout
only Halcyon's side is measured.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from step_turns import LARGE_PAGES, Peer, Seconds, Turn, in_turns, seconds, start_on_one_processor

CHILD = Path(__file__).with_name("nanochat_engine_child.py")


def turn_of(submit: Callable[[], object], step: Callable[[], int], rows: int, tokens: int) -> Turn:
    """A turn of an engine.

    Args:
        submit: Gives the engine its requests.
        step: Computes one step, and returns the number of its tokens.
        rows: Texts.
        tokens: Tokens of each.
    """

    def run() -> dict[str, Seconds]:
        submit()
        found = 0

        def until(count: int) -> None:
            nonlocal found
            while found < count:
                found += step()

        return {"first": seconds(lambda: until(rows)), "later": seconds(lambda: until(rows * tokens))}

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanochat", type=Path, help="a checkout of karpathy/nanochat")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--weights", nargs="+", default=["float32"], choices=["float32", "bfloat16", "int8"])
    parser.add_argument("--temperature", type=float, default=0.0)
    for name, default in (
        ("depth", 4),
        ("vocabulary", 32768),
        ("length", 2048),
        ("prompt", 64),
        ("tokens", 64),
        ("rounds", 5),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    start_on_one_processor()

    import haliax as hax
    import jax
    import jax.numpy as jnp
    import numpy as np

    from halcyon.inference import Engine, Sampling
    from halcyon.models import CausalLM, build_model
    from halcyon.models.int8 import quantized, stored_bytes
    from halcyon_api.spec.families.nanochat import NanochatSpec

    vocab, position = hax.make_axes(vocab=options.vocabulary, position=options.length)
    made = jax.jit(functools.partial(build_model, NanochatSpec(depth=options.depth), vocab, position))
    model: CausalLM = made(key=jax.random.key(0))
    prompt = np.random.default_rng(0).integers(1, options.vocabulary, options.prompt).astype(np.int32)

    models: dict[str, Any] = {"float32": model}
    if "bfloat16" in options.weights:
        models["bfloat16"] = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model)
    if "int8" in options.weights:
        models["int8"] = quantized(model)

    def turn(weights: str, rows: int) -> Turn:
        compute = "bfloat16" if weights == "bfloat16" else "float32"
        engine = Engine(
            models[weights],
            slots=rows,
            length=options.prompt + options.tokens,
            compute_dtype=compute,
            clock=time.process_time,
        )
        settings = [Sampling(options.tokens, options.temperature, seed=row) for row in range(rows)]
        return turn_of(
            lambda: [engine.submit(prompt, one) for one in settings], lambda: len(engine.step()), rows, options.tokens
        )

    turns = {f"{weights}, {rows}": turn(weights, rows) for rows in options.rows for weights in options.weights}
    with ExitStack() as stack:
        if options.nanochat is not None:
            peer = _peer(stack, options, prompt.tolist())
            turns |= {f"nanochat, {rows}": peer.turn(str(rows)) for rows in options.rows}
        else:
            print(
                "not compared: give a checkout of karpathy/nanochat with --nanochat, and an interpreter with torch "
                "with --python"
            )
        found = in_turns(turns, options.rounds)
    print(f"JAX {jax.__version__}, {sum(leaf.size for leaf in jax.tree.leaves(model)):,} parameters")
    print(", ".join(f"{name}: {stored_bytes(models[name]) / 1e6:.1f} MB" for name in options.weights))
    print(_table(found, options.rows, options.tokens))


def _peer(stack: ExitStack, options: argparse.Namespace, prompt: list[int]) -> Peer:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    settings = {"prompt": prompt, "tokens": options.tokens, "temperature": options.temperature}
    (folder / "question").write_text(json.dumps(settings))
    words = (options.nanochat, options.depth, options.vocabulary, options.length, folder / "question")
    peer = stack.enter_context(Peer(options.python, CHILD, words, {"NANOCHAT_DTYPE": "float32"} | LARGE_PAGES))
    print(f"nanochat: {peer.facts}")
    return peer


def _table(found: Mapping[str, list[Seconds]], rows: Sequence[int], tokens: int) -> str:
    """Milliseconds by processor time, medians, and the ratio to nanochat's."""
    lines = [f"{'processor ms':24} {'first':>8} {'a step':>8} {'tokens/s':>9} {'faster':>7}   by the wall clock"]

    def median(name: str, part: str, clock: str) -> float:
        return statistics.median(getattr(one, clock) for one in found[f"{name}, {part}"])

    for name in dict.fromkeys(name.rpartition(", ")[0] for name in found):
        label, _, count = name.rpartition(", ")
        first, later = (median(name, part, "processor") for part in ("first", "later"))
        peer, ratio = f"nanochat, {count}", ""
        if f"{peer}, later" in found and label != "nanochat":
            ratios = [median(peer, "later", clock) / median(name, "later", clock) for clock in ("processor", "wall")]
            ratio = f"{ratios[0]:7.2f}   {ratios[1]:.2f}"
        lines.append(
            f"{label + ', rows: ' + count:24} {first * 1e3:8.2f} {later / (tokens - 1) * 1e3:8.3f} "
            f"{int(count) * (tokens - 1) / later:9,.0f} {ratio}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
