"""An answer that was cut goes on with the same message: the request, the text, and the whole way to a real model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from halcyon.serving.limits import Limits
from tests.page.acts import answered, answers, ask
from tests.page.server import HOLD, ChatServer, Rejected, Text, Tokens
from tests.suite.limits import limit
from tests.trainer.serving.running import TEMPLATE, load, running, write_model

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]


def resume(page: Page) -> None:
    page.get_by_role("button", name="Continue").click()


def test_a_cut_answer_goes_on_from_its_tokens(page: Page, server: ChatServer) -> None:
    server.script(
        Text([Tokens("<think>Hm", [5, 6]), Tokens(".</th", [7])], finish="length", tokens=3),
        Text([Tokens("ink>\n\nOne, ", [8, 9]), Tokens("tw", [10]), HOLD]),
        Rejected(400, "The conversation fills the model."),
        Text([Tokens("o.", [11])], tokens=1),
        Text(["Next."]),
    )
    ask(page, "Count")
    answered(page, "The answer reached the limit of tokens.")
    resume(page)
    answer = answers(page)
    expect(answer.locator(":scope > .content")).to_have_text("One, tw")
    expect(answer.locator(".thought")).to_have_text("Hm.")
    page.keyboard.press("Escape")
    answered(page, "You stopped this answer.")
    expect(answer.locator(".figures")).to_have_text("6 tokens")
    page.reload()
    resume(page)
    answered(page, "The conversation fills the model.")
    expect(answer.locator(":scope > .content")).to_have_text("One, tw")
    resume(page)
    answered(page, "One, two.")
    expect(page.get_by_role("button", name="Continue")).to_have_count(0)
    expect(answer).to_have_count(1)
    expect(answer.locator(".figures")).to_contain_text("7 tokens")
    question = {"role": "user", "content": "Count"}
    for request, (text, ids) in zip(
        server.requests[1:],
        [
            ("<think>Hm.</th", [5, 6, 7]),
            *[("<think>Hm.</think>\n\nOne, tw", [5, 6, 7, 8, 9, 10])] * 2,
        ],
        strict=True,
    ):
        assert request["continue_final_message"] is True
        assert request["messages"] == [question, {"role": "assistant", "content": text, "token_ids": ids}]
    ask(page, "And now?")
    answered(page, "Next.", 2)
    assert "continue_final_message" not in server.requests[-1]
    assert server.requests[-1]["messages"][1] == {"role": "assistant", "content": "One, two."}


def test_half_a_character_at_the_cut_comes_again_as_a_whole(page: Page, server: ChatServer) -> None:
    server.script(
        Text([Tokens("caf", [1]), Tokens("\ufffd", [2])], finish="length"),
        Text([Tokens("é", [2, 3]), Tokens("!", [4])]),
    )
    ask(page, "Where?")
    answered(page, "The answer reached the limit of tokens.")
    resume(page)
    answer = answered(page, "café!")
    expect(answer.locator(":scope > .content")).to_have_text("café!")
    assert server.requests[1]["messages"][1]["token_ids"] == [1]


def test_only_the_last_answer_goes_on(page: Page, server: ChatServer) -> None:
    server.script(Text([Tokens("Half", [1])], finish="length"), Text(["Whole."]))
    ask(page, "first")
    answered(page, "Half")
    expect(page.get_by_role("button", name="Continue")).to_be_visible()
    ask(page, "second")
    answered(page, "Whole.", 2)
    expect(page.get_by_role("button", name="Continue")).to_have_count(0)


def test_pieces_of_an_answer_of_a_real_model_are_the_whole_answer(browser: Browser, tmp_path: Path) -> None:
    """The page asks `halcyon serve` for 16 tokens, and goes on three times; the text is that of 64 at once.

    The random model writes many bytes that are no characters, but none after this question.
    """
    tiny = load(write_model(tmp_path / "tiny", template=TEMPLATE))
    with running(tiny, Limits()) as server:
        context = browser.new_context(base_url=server.url)
        context.set_default_timeout(limit(60) * 1000)
        page = context.new_page()
        page.goto("/")
        expect(page.get_by_label("Model")).to_be_enabled()
        answers_of = dict[int, Any]()
        for most, times in ((64, 1), (16, 4)):
            page.evaluate(
                """(settings) => localStorage.setItem("halcyon.chat.settings", settings)""",
                json.dumps({"temperature": 0, "maxTokens": most}),
            )
            page.reload()
            page.get_by_role("button", name="New conversation").click()
            ask(page, "night")
            for time in range(times):
                if time:
                    resume(page)
                answered(page, "The answer reached the limit of tokens.")
            answers_of[most] = page.evaluate(
                """() => Object.entries(localStorage).filter(([name]) => name.includes("conversation"))
                    .map(([, text]) => JSON.parse(text)).sort((a, b) => b.updated - a.updated)[0].messages[1]"""
            )
        whole, pieces = answers_of[64], answers_of[16]
        assert len(pieces["cut"]["ids"]) == 64
        assert (pieces["content"], pieces["cut"]) == (whole["content"], whole["cut"])
        context.close()
