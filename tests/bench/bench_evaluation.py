"""Speed of tasks: many examples at once against one at a time, on the same model, in pairs within one run, on one processor.

Likelihoods one at a time: a forward pass over the choices of one example, padded to the length that the batches use, with logits at every
position. Answers one at a time: an engine with one slot. Both sides use compiled programs, and compilation is not measured.

    python tests/bench/bench_evaluation.py [--examples 64] [--pairs 3] [--layers 2] [--width 64] [--vocab 8192]
"""

from __future__ import annotations

import os

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")  # before JAX starts

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np

from halcyon.benchmarks.likelihood import Likelihoods, Span
from halcyon.inference import Engine, Sampling
from halcyon.models import CausalLM, Inputs, build_model
from halcyon.models.axes import BATCH, POSITION
from halcyon_api.spec.families.llama import LlamaSpec
from halcyon_api.spec.model import ModelSpec

CHOICES, POSITIONS = 4, 512


def letters(random: np.random.Generator, examples: int, vocab: int) -> list[list[Span]]:
    """Questions with lettered choices: the same text, and four next tokens."""
    found: list[list[Span]] = []
    for _ in range(examples):
        text = random.integers(0, vocab, int(random.integers(40, 250))).astype(np.int32)
        found.append([Span(np.append(text, np.int32(letter)), len(text)) for letter in range(CHOICES)])
    return found


def endings(random: np.random.Generator, examples: int, vocab: int) -> list[list[Span]]:
    """Questions of CORE: four endings of the same text."""
    found: list[list[Span]] = []
    for _ in range(examples):
        text = random.integers(0, vocab, int(random.integers(40, 230))).astype(np.int32)
        ends = [random.integers(0, vocab, int(random.integers(2, 13))).astype(np.int32) for _ in range(CHOICES)]
        found.append([Span(np.concatenate((text, end)), len(text)) for end in ends])
    return found


@functools.partial(jax.jit)
def all_log_probs(model: CausalLM, tokens: jax.Array) -> jax.Array:
    """Log-probabilities of the tokens at all positions but the first: float32 [row, position - 1]."""
    features = model(Inputs(hax.named(tokens, (BATCH, POSITION)))).features
    logits = model.logits(features).rearrange((BATCH, POSITION, model.vocab.name)).array.astype(jnp.float32)
    return jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], -1)[..., 0]


def one_at_a_time(model: CausalLM, questions: Sequence[Sequence[Span]]) -> list[float]:
    """The log-likelihood of each choice."""
    found: list[float] = []
    for spans in questions:
        longest = max(len(span.tokens) for span in spans)
        rows = np.zeros((len(spans), 1 << (longest - 1).bit_length()), np.int32)
        for row, span in zip(rows, spans, strict=True):
            row[: len(span.tokens)] = span.tokens
        log_probs = np.asarray(all_log_probs(model, rows))
        found += [float(row[span.start - 1 : len(span.tokens) - 1].sum()) for row, span in zip(log_probs, spans, strict=True)]
    return found


def answered(engine: Engine, prompts: Sequence[np.ndarray], tokens: int) -> list[list[int]]:
    """The answers of an engine."""
    numbers = {engine.submit(prompt, Sampling(max_tokens=tokens, temperature=0.0)): place for place, prompt in enumerate(prompts)}
    found: list[list[int]] = [[] for _ in prompts]
    while engine.unfinished:
        for sampled in engine.step():
            found[numbers[sampled.request]].append(sampled.token)
    return found


def pair(name: str, examples: int, pairs: int, one: Callable[[], object], many: Callable[[], object]) -> None:
    """Print the examples in a second of both ways, and the median ratio."""
    one()
    many()
    found: list[tuple[float, float]] = []
    for _ in range(pairs):
        seconds: list[float] = []
        for way in (one, many):
            begin = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - begin)
        found.append((seconds[0], seconds[1]))
    best = [min(times) for times in zip(*found, strict=True)]
    ratio = statistics.median(alone / together for alone, together in found)
    print(f"{name:22} {examples / best[0]:9.1f} {examples / best[1]:9.1f} {ratio:7.1f}", flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("examples", 64), ("pairs", 3), ("layers", 2), ("width", 64), ("vocab", 8192)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    spec = LlamaSpec(layers=options.layers, hidden_size=options.width, intermediate_size=4 * options.width, heads=4)
    vocab, position = hax.make_axes(vocab=options.vocab, position=POSITIONS)
    model = jax.jit(functools.partial(build_model, ModelSpec(llama=spec), vocab, position))(key=jax.random.key(0))
    random, likelihoods = np.random.default_rng(0), Likelihoods(model)
    print(f"{'examples in a second':22} {'one':>9} {'many':>9} {'ratio':>7}")
    for name, make in (("lettered choices", letters), ("endings", endings)):
        questions = make(random, options.examples, options.vocab)
        spans = [span for of_question in questions for span in of_question]
        alone, together = one_at_a_time(model, questions), [score.log_prob for score in likelihoods.scores(spans)]
        np.testing.assert_allclose(alone, together, rtol=1e-4)
        pair(name, options.examples, options.pairs, lambda q=questions: one_at_a_time(model, q), lambda s=spans: likelihoods.scores(s))
    prompts = [random.integers(0, options.vocab, int(random.integers(8, 60))).astype(np.int32) for _ in range(options.examples)]
    single, several = (Engine(model, slots=slots, length=128) for slots in (1, 32))
    if answered(single, prompts[:4], 64) != answered(several, prompts[:4], 64):
        raise SystemExit("the answers of both engines differ")
    pair(
        "answers of 64 tokens",
        options.examples,
        options.pairs,
        lambda: answered(single, prompts, 64),
        lambda: answered(several, prompts, 64),
    )


if __name__ == "__main__":
    main()
