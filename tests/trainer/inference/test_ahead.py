"""Layers for further tokens propose tokens, and every text has the tokens that it has without them: the most likely ones,
and those that a seed draws from the model's distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from halcyon.inference import Engine, Sampling
from tests.trainer.inference.test_engine import _REQUESTS, _finished, _model
from tests.trainer.models.cases import FAMILIES, LLAMA, changed, logits, named

CASES = {
    "llama": (LLAMA, 2),
    "qwen3-next": (FAMILIES["qwen3-next"], 1),
    "deepseek-v3": (FAMILIES["deepseek-v3"], 1),
    "gemma3": (FAMILIES["gemma3"], 3),
}


def model_of(name: str) -> Any:
    spec, layers = CASES[name]
    return _model(changed(spec, num_nextn_predict_layers=layers))


def texts(engine: Engine, **options: Any) -> list[list[tuple[int, str | None]]]:
    numbers = [engine.submit(prompt, settings, **options) for prompt, settings in _REQUESTS]
    found = _finished(engine, numbers)
    return [[(one.id, one.finish) for one in found[number]] for number in numbers]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=() if at < 1 else pytest.mark.variant) for at, one in enumerate(CASES)]
)
def test_texts_have_the_tokens_that_they_have_without_proposals(name: str) -> None:
    model = model_of(name)
    ahead, plain = (Engine(model, slots=3, pages=7, ahead=wanted) for wanted in (True, False))
    assert texts(ahead) == texts(plain)
    assert 0 < ahead.accepted < ahead.proposed
    assert plain.proposed == 0
    ends = texts(plain)[3][9][0]
    assert texts(ahead, ends=[ends]) == texts(plain, ends=[ends])


@pytest.mark.slow
def test_drawn_texts_have_the_distribution_of_the_model() -> None:
    """Texts of three tokens, each one of three: 27 of them, as often as the model's own probabilities say."""
    model, kept, seeds = model_of("llama"), 3, 1500
    prompt = np.arange(7, dtype=np.int32)

    def choices(text: tuple[int, ...]) -> dict[int, float]:
        tokens = np.pad(np.concatenate((prompt, text)).astype(np.int32), (0, 9 - len(text)))
        after = np.asarray(logits(model, named(tokens[None]))[0, len(prompt) + len(text) - 1], np.float64)
        likely = np.argsort(after)[-kept:]
        share = np.exp(after[likely] - after[likely].max())
        return dict(zip(likely.tolist(), (share / share.sum()).tolist(), strict=True))

    expected: dict[tuple[int, ...], float] = {(): float(seeds)}
    for _ in range(3):
        expected = {
            (*text, token): count * share for text, count in expected.items() for token, share in choices(text).items()
        }
    engine = Engine(model, slots=16, ahead=True)
    numbers = [engine.submit(prompt, Sampling(3, top_k=kept, seed=seed)) for seed in range(seeds)]
    found = _finished(engine, numbers)
    drawn = [tuple(one.id for one in found[number]) for number in numbers]
    assert set(drawn) <= set(expected)
    assert engine.accepted > seeds / 10, "proposals are taken"
    distance = sum((drawn.count(text) - count) ** 2 / count for text, count in expected.items())
    freedom = len(expected) - 1  # Pearson's chi-squared: its mean; its variance is twice that
    assert distance < freedom + 4 * (2 * freedom) ** 0.5
