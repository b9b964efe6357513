"""Log probabilities of a prompt and of the tokens after it, as clients of completions read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from halcyon.inference.likelihood import Likelihoods
from halcyon.inference.spans import Span
from halcyon.serving.served import Served
from tests.trainer.serving.running import Running

pytestmark = pytest.mark.slow


def asked(server: Running, **body: Any) -> Any:
    with server.http() as http:
        answer = http.post("/v1/completions", json={"model": "tiny", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_request_of_lm_eval_gets_the_likelihoods_of_the_model(server: Running, tiny: Served) -> None:
    """Of `local-completions` for multiple choice, read as it reads them: a batch of prompts of token ids."""
    questions = [(tiny.tokenizer.encode("hello there"), tiny.tokenizer.encode(ending)) for ending in (" you", " x y z")]
    prompts = [[*context.tolist(), *ending.tolist()] for context, ending in questions]
    answer = asked(server, prompt=prompts, temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True)
    spans = [Span(np.array(ids, np.int32), len(context)) for ids, (context, _) in zip(prompts, questions, strict=True)]
    expected = Likelihoods(tiny.model).scores(spans)
    for choice, (context, ending), score in zip(answer["choices"], questions, expected, strict=True):
        logs = choice["logprobs"]
        assert len(logs["tokens"]) == len(context) + len(ending) + 1
        scored = slice(len(context), -1)
        assert sum(logs["token_logprobs"][scored]) == pytest.approx(score.log_prob, abs=1e-4)
        best = [max(top.values()) for top in logs["top_logprobs"][scored]]
        assert (best == logs["token_logprobs"][scored]) == score.is_greedy


@pytest.mark.parametrize("most", [0, 1, 6])
def test_a_prompt_is_repeated_with_its_log_probabilities(server: Running, most: int) -> None:
    """Whole and streamed; the places of tokens are those of their text. No token follows with ``max_tokens: 0``."""
    prompt = "Hello there, what is it? Café"
    body = {"prompt": prompt, "echo": True, "logprobs": 2, "max_tokens": most, "temperature": 1.3, "seed": 3}
    answer = asked(server, **body)
    (choice,) = answer["choices"]
    logs, text = choice["logprobs"], choice["text"]
    assert text.startswith(prompt)
    assert answer["usage"]["completion_tokens"] == most
    assert len(logs["tokens"]) == answer["usage"]["total_tokens"]
    assert (logs["token_logprobs"][0], logs["top_logprobs"][0]) == (None, None)
    for spelling, log_prob, top, place in list(zip(*logs.values(), strict=True))[1:]:
        if not spelling.startswith("bytes:"):
            assert text[place : place + len(spelling)] == spelling
        assert log_prob in top.values()
        assert 2 <= len(top) <= 3
    assert (text == prompt) == (most == 0)
    chunks: list[Any] = list(server.openai().completions.create(model="tiny", stream=True, **body))
    parts = [part for chunk in chunks for part in chunk.choices]
    assert "".join(part.text for part in parts) == text
    assert parts[-1].finish_reason == choice["finish_reason"]
    for name, values in logs.items():
        assert [value for part in parts for value in (getattr(part.logprobs, name, None) or [])] == values


def test_every_token_keeps_its_log_probability(server: Running, tiny: Served) -> None:
    """Of tokens with parts of characters, which have no text of their own, none hides another one; and the chosen
    token is among the most likely ones.
    """
    ids = [token for token, piece in enumerate(tiny.tokenizer.pieces()) if len(piece) == 1 and piece >= b"\x80"][:6]
    assert len(ids) == 6
    answer = asked(server, prompt=ids, echo=True, logprobs=5, max_tokens=8, temperature=50, seed=1)
    logs = answer["choices"][0]["logprobs"]
    assert all(name.startswith("bytes:\\x") for name in logs["tokens"][:6])
    assert len(set(logs["tokens"][:6])) == 6
    for spelling, log_prob, top in list(zip(*(logs[name] for name in list(logs)[:3]), strict=True))[1:]:
        assert top[spelling] == log_prob
        assert len(top) >= 5
    found: Any = server.openai().chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hello"}], logprobs=True, top_logprobs=3, max_tokens=8,
        temperature=50, seed=1,
    )  # fmt: skip
    for entry in found.choices[0].logprobs.content:
        assert (entry.id, entry.logprob) in [(other.id, other.logprob) for other in entry.top_logprobs]
        assert len({other.id for other in entry.top_logprobs}) == len(entry.top_logprobs) in (3, 4)


def test_penalties_of_a_request_change_its_text(server: Running) -> None:
    body = {"prompt": "Hello there", "max_tokens": 16, "temperature": 0}
    plain, same, unlike = (
        asked(server, **body, **changed)["choices"][0]["text"]
        for changed in ({}, {"frequency_penalty": 0, "presence_penalty": 0.0}, {"presence_penalty": 2})
    )
    assert plain == same != unlike
