"""What a model thinks before it answers: folded, not copied, kept, and not sent again."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.page.acts import answered, answers, ask
from tests.page.server import HOLD, ChatServer, Text

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]


@pytest.mark.parametrize("way", ["tag", "field"])
def test_thinking_is_open_while_it_comes_and_folded_when_the_answer_begins(
    page: Page, server: ChatServer, way: str
) -> None:
    if way == "tag":
        pieces: list[object] = ["<thi", "nk>\nSix times ", HOLD, "*seven*.</th", "ink>\n\nIt is ", HOLD, "42."]
    else:
        pieces = [("thought", "Six times "), HOLD, ("thought", "*seven*."), "It is ", HOLD, "42."]
    server.script(Text(pieces), Text(["Yes."]))
    ask(page, "What is 6 times 7?")
    answer = answers(page).first
    thinking = answer.locator("details.thinking")
    expect(thinking.locator("summary")).to_have_text("Thinking")
    expect(thinking).to_have_attribute("open", "")
    expect(thinking).to_contain_text("Six times")
    server.release()
    expect(answer.locator("> .content")).to_have_text("It is ")
    expect(thinking).not_to_have_attribute("open", "")
    thinking.locator("summary").click()
    server.release()
    answered(page, "It is 42.")
    expect(thinking).to_have_attribute("open", "")
    expect(thinking.locator("em")).to_have_text("seven")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answer.get_by_role("button", name="Copy").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()) === 'It is 42.'")
    ask(page, "Really?")
    answered(page, "Yes.", 2)
    assert [message["content"] for message in server.requests[1]["messages"]] == [
        "What is 6 times 7?",
        "It is 42.",
        "Really?",
    ]
    page.reload()
    answered(page, "It is 42.")
    expect(thinking).not_to_have_attribute("open", "")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    kept = json.loads(download.value.path().read_text())["conversations"][0]["messages"][1]
    assert (kept["content"], kept["thinking"].strip()) == ("It is 42.", "Six times *seven*.")


def test_an_answer_that_ends_while_the_model_thinks(page: Page, server: ChatServer) -> None:
    server.script(Text(["<think>All day"], finish="length"), Text(["<think>More", HOLD]))
    ask(page, "Think")
    answer = answered(page, "The answer reached the limit of tokens.")
    expect(answer.locator("details")).to_contain_text("All day")
    expect(answer.get_by_role("button", name="Copy")).to_have_count(0)
    ask(page, "Again")
    expect(answers(page).nth(1)).to_contain_text("More")
    page.keyboard.press("Escape")
    expect(answered(page, "You stopped this answer.", 2).locator("details")).to_contain_text("More")
    assert [message["content"] for message in server.requests[1]["messages"]] == ["Think\n\nAgain"]


def test_the_rate_counts_the_tokens_of_the_thinking_in_their_time(page: Page, server: ChatServer) -> None:
    server.script(Text([("thought", "a"), HOLD, "b"], tokens=501))
    ask(page, "count")
    expect(answers(page).first.locator("details")).to_contain_text("a")
    page.wait_for_timeout(200)
    server.release()
    figures = answered(page, "b").locator(".figures").inner_text()
    assert float(figures.partition(", ")[2].split()[0]) <= 2500


def test_an_answer_of_an_earlier_version_of_the_page_is_folded_too(page: Page) -> None:
    page.evaluate("""() => {
        const messages = [{role: "user", content: "old"}, {role: "assistant", content: "<think>\\nHm.\\n</think>\\n\\nYes.", finish: "stop"}];
        localStorage.setItem("halcyon.chat.conversation.old", JSON.stringify({id: "old", title: "old", created: 1, updated: 1, messages}));
    }""")
    page.reload()
    page.get_by_role("button", name="old", exact=True).click()
    expect(answers(page).first.locator("details")).to_contain_text("Hm.")
    expect(answers(page).first.locator("> .content")).to_have_text("Yes.")


CASES = [
    ("<think>a</think>b", "a", "b"),
    (" \n<think>\na\n</think>\n\n b\n", "\na\n", "b\n"),
    ("a <think>b</think>", "", "a <think>b</think>"),
    ("<thinking>a", "", "<thinking>a"),
    ("<thi", "", "<thi"),
    ("  text", "", "  text"),
    ("<think>a</thin", "a</thin", ""),
    ("<think>a < b </ c</think><think>d</think>", "a < b </ c", "<think>d</think>"),
    ("<think></think>", "", ""),
    ("", "", ""),
]


@pytest.mark.parametrize(("text", "thinking", "content"), CASES)
def test_thinking_is_found_however_the_text_is_cut(page: Page, text: str, thinking: str, content: str) -> None:
    rng = random.Random(1)
    cuts: list[list[str]] = [[text], list(text)]
    for _ in range(20):
        at = sorted(rng.randrange(len(text) + 1) for _ in range(3))
        cuts.append([text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True)])
    found: list[Any] = page.evaluate(
        """async (cuts) => {
            const m = await import("/assets/thinking.js");
            return cuts.map((pieces) => {
                const parts = new m.Thinking();
                const found = [...pieces.map((piece) => parts.feed(piece)), parts.end()];
                return [found.map((one) => one.thinking).join(""), found.map((one) => one.content).join("")];
            });
        }""",
        cuts,
    )
    assert found == [[thinking, content]] * len(cuts)
