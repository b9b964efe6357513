"""Conversations and texts have the ids and the loss masks that transformers gives them, with templates and tokenizers
of every kind.

`make parity` checks that the goldens are what transformers gives (`tests.parity.templates.make`).
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from typing import Any

import pytest

from halcyon.data.formats.template import DEFAULT_TEMPLATE
from halcyon.host.errors import BadConfiguration
from halcyon.inference.chat import ChatPrompts
from tests.parity.templates import goldens
from tests.parity.templates.cases import CONVERSATIONS, DATE, DIFFERENCES, TEMPLATES, TEXTS
from tests.parity.templates.kinds import KINDS, SETTINGS, Kind
from tests.parity.templates.page import PAGE, page
from tests.trainer.data.formats.published import formatter_of, loaded, tokenizer_of
from tests.trainer.data.formats.standin import row


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)  # that the reference encodes, not the fast encoder


@pytest.mark.parametrize("name", KINDS)
def test_conversations_have_the_ids_and_the_weights_of_transformers(name: str) -> None:
    tokenizer, cases = tokenizer_of(name), goldens.read(name)["cases"]
    assert {template: [*of_template] for template, of_template in cases.items()} == {
        one: sorted(CONVERSATIONS) for one in TEMPLATES
    }
    for template, of_template in cases.items():
        formatter = formatter_of(tokenizer, TEMPLATES[template])
        for conversation, golden in of_template.items():
            if "error" in golden:
                with pytest.raises(BadConfiguration, match="does not fit the template"):
                    formatter([row(CONVERSATIONS[conversation])])
                continue
            (document,) = formatter([row(CONVERSATIONS[conversation])])
            assert document.tokens.tolist() == golden["ids"], (template, conversation)
            counted = goldens.stretches(document.weights)
            assert counted == golden.get("exact", golden["counted"]), (template, conversation, golden.get("why"))


@pytest.mark.parametrize("name", KINDS)
def test_prompts_have_the_ids_of_transformers(name: str) -> None:
    tokenizer, day = tokenizer_of(name), dt.datetime.fromisoformat(DATE)
    for template, of_template in goldens.read(name)["cases"].items():
        prompts = ChatPrompts(tokenizer, TEMPLATES[template], lambda: day)
        for conversation, golden in of_template.items():
            if "error" not in golden:
                messages, tools = CONVERSATIONS[conversation]["messages"], CONVERSATIONS[conversation].get("tools")
                assert prompts.seen(messages[:-1], tools)[0].tolist() == golden["prompt"], (template, conversation)


@pytest.mark.parametrize("name", KINDS)
def test_texts_have_the_ids_of_transformers(name: str) -> None:
    tokenizer = tokenizer_of(name)
    for text, ids in goldens.read(name)["texts"].items():
        if name == "sentence-piece" and TEXTS[text].startswith((" ", "▁")):  # the conversion adds no space there
            ids[1:1] = tokenizer.encode("▁").tolist()[:1]
        assert [*tokenizer.prefix, *tokenizer.encode(TEXTS[text]).tolist(), *tokenizer.suffix] == ids, text


def others() -> dict[str, Any]:
    return json.loads(goldens.OTHERS.read_text())


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_of_a_folder_put_around_a_text_what_transformers_puts_there(name: str) -> None:
    base, changes = SETTINGS[name]
    kind = KINDS[base]()
    tokenizer = loaded(Kind(kind.document, kind.settings | changes, kind.about))
    word = next(iter(TEXTS.values()))
    assert [*tokenizer.prefix, *tokenizer.encode(word).tolist(), *tokenizer.suffix] == others()["settings"][name]


def test_a_span_of_the_assistant_counts_with_all_tokens_of_its_characters() -> None:
    """The mask of transformers asks for the token of the first and of the last character of each span."""
    found = {name: (others()["differences"][name], document_of(name)) for name in DIFFERENCES}
    for name in goldens.REASONS:
        golden, document = found[name]
        assert document.tokens.tolist() == golden["ids"]
    golden, document = found["character of several tokens"]
    assert [*zip(golden["mask"], document.weights.tolist(), strict=True)][3:7] == [(1, 1), (1, 1), (0, 1), (0, 1)], (
        "an emoji of 4 bytes"
    )
    golden, document = found["first character"]  # a line end, which has no token: no span counts
    assert golden["mask"] == [0] * 10
    assert document.weights.tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 1, 1]
    golden, document = found["last character"]  # a line end too: everything after the span counts
    assert golden["mask"] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert document.weights.tolist() == [0, 0, 0, 1, 0, 0, 0, 1]


def test_a_special_token_that_a_message_spells_is_text() -> None:
    """For transformers it is the token, if not ``sanitize_control_tokens`` is given, which gives no mask."""
    golden = others()["differences"]["special token in a message"]
    document = document_of("special token in a message")
    special = tokenizer_of("gpt2").special_tokens
    names = ("<|user|>", "<|assistant|>", "<|end|>")
    assert [golden["ids"].count(special[name]) for name in names] == [2, 3, 3]
    assert [document.tokens.tolist().count(special[name]) for name in names] == [2, 2, 2]
    assert document.tokens.tolist() == golden["sanitized"]


def document_of(name: str) -> Any:
    case = DIFFERENCES[name]
    (document,) = formatter_of(tokenizer_of(case.tokenizer), case.template)([row({"messages": case.messages})])
    return document


def test_the_page_is_generated_from_the_goldens() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run 'make generate'"


def test_the_cases_have_the_template_of_this_project() -> None:
    assert TEMPLATES["halcyon"] == DEFAULT_TEMPLATE
