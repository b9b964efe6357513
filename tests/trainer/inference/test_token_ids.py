"""`halcyon.generate` takes token ids as they are, also without a tokenizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import halcyon
from halcyon.host.errors import BadConfiguration
from tests.trainer.weights.folders import GOLDENS

PLACE = f"hf:{GOLDENS / 'qwen3'}"


@pytest.mark.slow
def test_token_ids_give_the_completion_of_their_text() -> None:
    model, tokenizer = halcyon.load(PLACE)
    assert tokenizer is not None
    settings: dict[str, Any] = {"max_tokens": 6, "temperature": 0.0}
    ids = [[*tokenizer.prefix, *tokenizer.encode(text).tolist()] for text in ("a b", "Café")]
    expected = halcyon.generate(model, tokenizer, ["a b", "Café"], **settings)
    forms: list[Any] = [ids, [np.array(one) for one in ids], ["a b", ids[1]], [tuple(one) for one in ids]]
    for form in forms:
        found = halcyon.generate(model, tokenizer, form, **settings)
        assert [(one.tokens, one.text) for one in found] == [(one.tokens, one.text) for one in expected]
    for alone in (ids[0], np.array(ids[0], np.int64)):
        (one,) = halcyon.generate(model, tokenizer, alone, **settings)
        assert (one.prompt, one.tokens) == (tuple(ids[0]), expected[0].tokens)
    bare = halcyon.generate(model, tokenizer, [ids[0][1:]], **settings)
    assert bare[0].prompt == tuple(ids[0][1:]), "no token is put before the ids"
    without = halcyon.generate(model, None, ids, **settings)
    # Without a tokenizer, ids that no tokenizer has may be chosen.
    known = [
        next((at for at, token in enumerate(one.tokens) if token >= tokenizer.vocab_size), len(one.tokens))
        for one in without
    ]
    shared = [min(count, len(other.tokens)) for count, other in zip(known, expected, strict=True)]
    assert min(shared) > 0
    assert [one.tokens[:count] for one, count in zip(without, shared, strict=True)] == [
        one.tokens[:count] for one, count in zip(expected, shared, strict=True)
    ]
    assert [(one.text, len(one.tokens), one.finish) for one in without] == [("", 6, "length")] * 2


@pytest.mark.parametrize(
    ("prompts", "error", "sentence"),
    [
        ([[]], ValueError, "a prompt has no token ids; give at least one"),
        ([[1, 10_000_000]], ValueError, "the prompt has the token 10000000; the model has 0 to "),
        ([[-1, 2]], ValueError, "the prompt has the token -1; the model has 0 to "),
        ([1.5, 2.5], TypeError, "a prompt must be a text, a list of token ids or a list of messages, not an array of"),
        ([{"content": "Hi"}], TypeError, "a message of a conversation needs a role and a content, unlike {'content'"),
        ([{"role": "user", "content": "Hi"}], BadConfiguration, "there is no tokenizer"),
        ([True, False], TypeError, "and type bool"),
        ([[[1, 2]]], TypeError, r"shape \[1, 2\]"),
        ("text", BadConfiguration, "there is no tokenizer, so text cannot become tokens"),
        (["text", [1]], BadConfiguration, "there is no tokenizer"),
    ],
    ids=str,
)
def test_prompts_that_are_no_token_ids_are_rejected(prompts: Any, error: type[Exception], sentence: str) -> None:
    model, _ = halcyon.load(PLACE)
    with pytest.raises(error, match=sentence):
        halcyon.generate(model, None, prompts)
    assert halcyon.generate(model, None, []) == []


MESSAGES = [{"role": "user", "content": "Hi"}]


def test_a_conversation_is_rendered_with_the_template_of_the_model() -> None:
    model, tokenizer = halcyon.load(PLACE)
    assert tokenizer is not None
    tokenizer.chat_template = None  # type: ignore[attr-defined] - as load sets it
    with pytest.raises(
        BadConfiguration, match="the model has no chat template, so messages cannot become tokens; give"
    ):
        halcyon.generate(model, tokenizer, MESSAGES)
    template = "{% for message in messages %}{{ message.content }}: {% endfor %}"
    settings: dict[str, Any] = {"max_tokens": 4, "temperature": 0.0}
    rendered = tokenizer.encode("Hi: ").tolist()
    (expected,) = halcyon.generate(model, tokenizer, rendered, **settings)
    (alone,) = halcyon.generate(model, tokenizer, MESSAGES, template=template, **settings)
    several = halcyon.generate(model, tokenizer, [MESSAGES, rendered], template=template, **settings)
    assert [one.tokens for one in (alone, *several)] == [expected.tokens] * 3
    assert (alone.prompt, several[1].prompt) == (tuple(MESSAGES), tuple(rendered))
    tokenizer.chat_template = template  # type: ignore[attr-defined]
    assert halcyon.generate(model, tokenizer, MESSAGES, **settings)[0] == alone


def test_rows_of_different_length_have_no_logits() -> None:
    model, _ = halcyon.load(PLACE)
    with pytest.raises(ValueError, match="tokens have rows of different length; fill the shorter rows at their end"):
        halcyon.logits(model, [[1, 2, 3], [1]])
