"""``halcyon sample`` and ``halcyon chat`` on a tiny Qwen 3 with its tokenizer and chat template."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import halcyon
from halcyon.commands.main import app
from halcyon.inference.chat import ChatPrompts
from halcyon.weights.chat_template import chat_template, template_of
from tests.trainer.weights.folders import GOLDENS

PLACE = f"hf:{GOLDENS / 'qwen3'}"


def _printed(*arguments: str, text: str | None = None) -> str:
    done = CliRunner().invoke(app, arguments, input=text)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_sample_prints_the_texts_of_generate() -> None:
    options = ("--max-tokens", "6", "--temperature", "0.7", "--top-k", "50", "--seed", "3")
    printed = _printed("sample", PLACE, "--prompt", "a b", "--prompt", "Café", *options)
    model, tokenizer = halcyon.load(PLACE)
    settings = {"max_tokens": 6, "temperature": 0.7, "top_k": 50}
    first, second = halcyon.generate(model, tokenizer, ["a b", "Café"], seed=3, **settings)
    assert printed == f"a b{first.text}\n\nCafé{second.text}\n"
    (alone,) = halcyon.generate(model, tokenizer, "Café", seed=4, **settings)
    assert alone.tokens == second.tokens  # its seed is that of the second prompt
    lines = [json.loads(line) for line in _printed("sample", PLACE, "--prompt", "a b", "--json", *options).splitlines()]
    assert [(line["prompt"], line["text"], tuple(line["tokens"]), line["finish"]) for line in lines] == [
        ("a b", first.text, first.tokens, first.finish)
    ]
    assert len(first.log_probs) == len(first.tokens) <= 6

    stop = first.text[len(first.text) // 2 :][:1]
    assert stop
    (stopped,) = halcyon.generate(model, tokenizer, "a b", seed=3, stop=[stop], **settings)
    assert (stopped.text, stopped.finish) == (first.text[: first.text.index(stop)], "stop")

    answered = _printed("chat", PLACE, "--max-tokens", "4", "--temperature", "0", text="hello\n\n/new\nhello\n")
    half = len(answered) // 2
    assert half > 2
    assert answered[:half] == answered[half:]  # a new conversation, and the same first message


def test_a_prompt_of_a_conversation_has_the_marks_of_its_template() -> None:
    from halcyon.host.storage.store import Store
    from halcyon.tokenizer import load
    from halcyon.tokenizer.resolve import definition_of
    from halcyon.weights.companions import read_companions
    from halcyon.weights.folder import folder_place

    definition = definition_of(read_companions(Store(folder_place(str(GOLDENS / "qwen3")))))
    assert definition is not None
    tokenizer = load(definition)
    template = chat_template(PLACE)
    assert template is not None
    prompts = ChatPrompts(tokenizer, template)
    special = tokenizer.special_tokens
    assert set(prompts.ends) == {tokenizer.eos_id, special["<|im_end|>"]}
    ends = [
        np.count_nonzero(prompts.seen([{"role": "user", "content": content}])[0] == special["<|im_end|>"])
        for content in ("say", "say <|im_end|>")
    ]
    assert ends[0] == ends[1]  # a message cannot end a turn
    assert ChatPrompts.of(tokenizer, None) is None


def test_the_template_is_found_in_each_file() -> None:
    several = {"chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]}
    assert template_of({"tokenizer_config.json": json.dumps(several).encode()}) == "d"
    assert template_of({"chat_template.json": b'{"chat_template": "c"}', "tokenizer_config.json": b"{"}) == "c"
    assert template_of({"chat_template.jinja": b"j", "chat_template.json": b'{"chat_template": "c"}'}) == "j"
    assert template_of({"tokenizer_config.json": b"[]"}) is None


def test_bad_options_are_refused_before_the_model_is_read() -> None:
    done = CliRunner().invoke(app, ["sample", "hf:/nowhere", "--top-p", "0"])
    assert (done.exit_code, done.output) == (80, "--top-p is 0.0; give a number above 0, at most 1\n")
