"""Layers for further tokens propose tokens, and every text has the tokens that it has without them: the most likely ones,
and those that a seed draws from the model's distribution."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon.inference import Engine
from tests.trainer.inference.test_engine import _REQUESTS, _finished, _model
from tests.trainer.models.cases import FAMILIES, LLAMA, changed

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
