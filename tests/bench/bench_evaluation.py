"""Speed of tasks on one processor: many examples at once, one at a time, and by nanochat's own evaluation, in turns.

All sides compute the same model: nanochat's at the given depth, random weights, float32. nanochat's functions are those
of its ``core_eval`` and ``chat_eval``: one example at a time, except that letters may be computed in batches
(`--batch`; its default is 8). One at a time on Halcyon's side means: a forward pass over the choices of one example,
padded to a power of two, with logits at every position; answers by an engine with one slot. Compilation is not
measured.

    python tests/bench/bench_evaluation.py --nanochat CHECKOUT [--python PYTHON] [--examples 32] [--rounds 3] [--batch
    1]

CHECKOUT is a checkout of karpathy/nanochat, PYTHON an interpreter with torch, jinja2 and filelock. Without a checkout
only Halcyon's sides are measured.
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
CHOICES = 4
CASES = ("letters", "endings", "answers")


def questions_of(examples: int, vocabulary: int, options: argparse.Namespace) -> dict[str, Any]:
    """Random token ids: texts with four letters, texts with four endings, prompts."""
    import numpy as np

    random = np.random.default_rng(0)

    def ids(first: int, last: int) -> list[int]:
        return random.integers(1, vocabulary, int(random.integers(first, last))).tolist()

    return {
        "generate": {"prompt": [1], "tokens": 1, "temperature": 0.0},
        "letters": [{"text": ids(40, 250), "letters": [1, 2, 3, 4]} for _ in range(examples)],
        "endings": [{"text": ids(40, 230), "ends": [ids(2, 13) for _ in range(CHOICES)]} for _ in range(examples)],
        "answers": [ids(8, 60) for _ in range(examples)],
        "tokens": options.tokens,
        "batch": options.batch,
    }


def turn(run: Callable[[], object]) -> Turn:
    return lambda: {"all": seconds(run)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanochat", type=Path, help="a checkout of karpathy/nanochat")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    sizes = (
        ("examples", 32),
        ("rounds", 3),
        ("depth", 4),
        ("vocabulary", 32768),
        ("length", 2048),
        ("tokens", 64),
        ("batch", 1),
    )
    for name, default in sizes:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batch-tokens", type=int, help="positions of a batch; default: that of the device")
    options = parser.parse_args()
    start_on_one_processor()

    import haliax as hax
    import jax
    import jax.numpy as jnp
    import numpy as np

    from halcyon.inference import Engine, Sampling
    from halcyon.inference.likelihood import Likelihoods, Span
    from halcyon.models import CausalLM, Inputs, build_model
    from halcyon.models.axes import BATCH, POSITION
    from halcyon_api.spec.families.nanochat import NanochatSpec

    vocab, position = hax.make_axes(vocab=options.vocabulary, position=options.length)
    made = jax.jit(functools.partial(build_model, NanochatSpec(depth=options.depth), vocab, position))
    model: CausalLM = made(key=jax.random.key(0))
    likelihoods = Likelihoods(model, batch_tokens=options.batch_tokens)
    questions = questions_of(options.examples, options.vocabulary, options)

    @jax.jit
    def all_log_probs(model: CausalLM, tokens: jax.Array) -> jax.Array:
        """Log-probabilities of the tokens at all positions but the first: float32 [row, position - 1]."""
        features = model(Inputs(hax.named(tokens, (BATCH, POSITION)))).features
        logits = model.logits(features).rearrange((BATCH, POSITION, model.vocab.name)).array.astype(jnp.float32)
        return jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], -1)[..., 0]

    def spans_of(one: Mapping[str, Any]) -> list[Span]:
        ends = one["ends"] if "ends" in one else [[letter] for letter in one["letters"]]
        return [Span(np.array([0, *one["text"], *end], np.int32), 1 + len(one["text"])) for end in ends]

    def one_at_a_time(given: Sequence[Sequence[Span]]) -> list[float]:
        """The log-likelihood of each choice."""
        found: list[float] = []
        for spans in given:
            rows = np.zeros((len(spans), 1 << (max(len(span.tokens) for span in spans) - 1).bit_length()), np.int32)
            for row, span in zip(rows, spans, strict=True):
                row[: len(span.tokens)] = span.tokens
            log_probs = np.asarray(all_log_probs(model, rows))
            found += [
                float(row[span.start - 1 : len(span.tokens) - 1].sum())
                for row, span in zip(log_probs, spans, strict=True)
            ]
        return found

    def answered(engine: Engine) -> list[list[int]]:
        settings = Sampling(options.tokens, temperature=0.0)
        places = {engine.submit(prompt, settings): place for place, prompt in enumerate(questions["answers"])}
        found: list[list[int]] = [[] for _ in places]
        while engine.unfinished:
            for sampled in engine.step():
                found[places[sampled.sequence]].append(sampled.id)
        return found

    turns: dict[str, Turn] = {}
    for name in options.cases:
        if name == "answers":
            longest = max(map(len, questions["answers"])) + options.tokens
            single, several = (Engine(model, slots=slots, length=longest, clock=time.process_time) for slots in (1, 32))
            turns |= {
                f"{name}, one": turn(lambda e=single: answered(e)),
                f"{name}, many": turn(lambda e=several: answered(e)),
            }
            continue
        given = [spans_of(one) for one in questions[name]]
        spans = [span for of_question in given for span in of_question]
        np.testing.assert_allclose(
            one_at_a_time(given), [score.log_prob for score in likelihoods.scores(spans)], rtol=1e-4
        )
        turns |= {
            f"{name}, one": turn(lambda g=given: one_at_a_time(g)),
            f"{name}, many": turn(lambda s=spans: likelihoods.scores(s)),
        }
    with ExitStack() as stack:
        if options.nanochat is not None:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "questions"
            path.write_text(json.dumps(questions))
            words = (options.nanochat, options.depth, options.vocabulary, options.length, path)
            peer = stack.enter_context(Peer(options.python, CHILD, words, {"NANOCHAT_DTYPE": "float32"} | LARGE_PAGES))
            print(f"nanochat: {peer.facts}")
            turns |= {f"{name}, nanochat": peer.turn(name) for name in options.cases}
        else:
            print(
                "not compared: give a checkout of karpathy/nanochat with --nanochat, and an interpreter with torch "
                "with --python"
            )
        found = in_turns(turns, options.rounds)
    print(table(found, options.cases, options.examples))


def table(found: Mapping[str, list[Seconds]], cases: Sequence[str], examples: int) -> str:
    """Examples a second of the processor, by medians, and how many times as fast many at once are."""
    lines = [
        f"{'examples a second':18} {'many':>9} {'one':>9} {'faster':>7} {'nanochat':>9} {'faster':>7}   by the wall "
        "clock"
    ]
    for name in cases:
        times = {
            side: [
                statistics.median(getattr(one, clock) for one in found[f"{name}, {side}"])
                for clock in ("processor", "wall")
            ]
            for side in ("many", "one", "nanochat")
            if f"{name}, {side}" in found
        }
        many = times["many"]
        cells = [
            f"{name:18} {examples / many[0]:9.2f} {examples / times['one'][0]:9.2f} {times['one'][0] / many[0]:7.1f}"
        ]
        if "nanochat" in times:
            theirs = times["nanochat"]
            cells.append(f" {examples / theirs[0]:9.2f} {theirs[0] / many[0]:7.1f}   {theirs[1] / many[1]:.1f}")
        lines.append("".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
