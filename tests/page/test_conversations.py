"""Conversations in the browser: several, after a reload, in two tabs, exported, deleted, and when the storage is
full.
"""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page, expect

from tests.page.acts import answered, answers, ask
from tests.page.server import HOLD, ChatServer, Text

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]


def test_conversations_stay_after_a_reload_and_can_be_exported(page: Page, server: ChatServer) -> None:
    server.script(Text(["One."]), Text(["Two."]))
    ask(page, "first question")
    answered(page, "One.")
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("#log article")).to_have_count(0)
    ask(page, "second question")
    answered(page, "Two.")
    page.reload()
    answered(page, "Two.")
    page.get_by_role("button", name="first question", exact=True).click()
    answered(page, "One.")
    expect(page.get_by_role("button", name="first question", exact=True)).to_have_attribute("aria-current", "true")
    page.get_by_role("button", name="Settings").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export as JSON").click()
    exported = json.loads(download.value.path().read_text())
    assert (exported["format"], exported["version"]) == ("halcyon-chat", 1)
    assert [[message["content"] for message in one["messages"]] for one in exported["conversations"]] == [
        ["second question", "Two."],
        ["first question", "One."],
    ]
    assert exported["conversations"][1]["messages"][1] == {
        "role": "assistant",
        "content": "One.",
        "model": "tiny-llama",
        "finish": "stop",
    }


def test_a_deleted_conversation_can_be_brought_back(page: Page, server: ChatServer) -> None:
    server.script(Text(["One."]))
    ask(page, "a question")
    answered(page, "One.")
    page.get_by_role("button", name="Rename or delete a question").click()
    page.get_by_role("button", name="Delete the conversation a question").click()
    expect(page.locator("#list li")).to_have_count(0)
    expect(page.locator("#log article")).to_have_count(0)
    expect(page.locator("#new")).to_be_focused()
    page.get_by_role("button", name="Undo").click()
    answered(page, "One.")
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Delete", exact=True).last.click()
    expect(page.locator("#list li")).to_have_count(0)
    page.reload()
    expect(page.locator("#list li")).to_have_count(0)


def test_an_answer_goes_on_while_another_conversation_is_shown(page: Page, server: ChatServer) -> None:
    server.script(Text(["The first ", HOLD, "is complete."]), Text(["The second."]))
    ask(page, "slow")
    expect(answers(page).first).to_contain_text("The first")
    page.get_by_role("button", name="New conversation").click()
    ask(page, "quick")
    answered(page, "The second.")
    page.get_by_role("button", name="slow", exact=True).click()
    expect(answers(page).first).to_contain_text("The first")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    server.release()
    answered(page, "The first is complete.")


def test_a_closed_page_keeps_the_text_that_has_come(page: Page, server: ChatServer) -> None:
    server.script(Text(["Half of ", HOLD, "it"]))
    ask(page, "question")
    expect(answers(page).first).to_contain_text("Half of")
    page.reload()
    answered(page, "The page was closed before this answer was complete.")
    expect(answers(page).first).to_contain_text("Half of")


def test_two_tabs_keep_both_conversations(page: Page, server: ChatServer) -> None:
    server.script(Text(["One."]), Text(["Two."]))
    other = page.context.new_page()
    other.goto("/")
    expect(other.get_by_label("Model")).to_be_enabled()
    ask(page, "left")
    answered(page, "One.")
    ask(other, "right")
    answered(other, "Two.")
    expect(page.locator("#list li")).to_have_count(2)
    expect(other.locator("#list li")).to_have_count(2)
    assert page.evaluate("() => Object.keys(localStorage).filter((name) => name.includes('conversation')).length") == 2


def test_a_full_storage_removes_the_oldest_conversation_and_says_so(page: Page, server: ChatServer) -> None:
    """Three conversations of 1.3 million characters leave no room for a long answer."""
    server.script(Text(["x" * 500_000]))
    page.evaluate("""() => {
        for (const [id, updated] of [["old", 1], ["middle", 2], ["young", 3]]) {
            const messages = [{role: "user", content: id + "y".repeat(1_300_000)}];
            localStorage.setItem(`halcyon.chat.conversation.${id}`, JSON.stringify({id, title: id, created: 1, updated, messages}));
        }
    }""")
    page.reload()
    expect(page.locator("#list li")).to_have_count(3)
    ask(page, "long")
    expect(page.locator("#notice")).to_contain_text("the oldest conversation was removed")
    expect(page.locator("#list .open")).to_have_text(["long", "young", "middle"])
    page.reload()
    expect(page.locator("#list .open")).to_have_text(["long", "young", "middle"])


def test_conversations_are_found_by_their_words(page: Page, server: ChatServer) -> None:
    server.script(Text(["The sea is blue."]), Text(["Paris."]))
    ask(page, "A poem")
    answered(page, "blue")
    page.get_by_role("button", name="New conversation").click()
    ask(page, "The capital of France")
    answered(page, "Paris.")
    page.get_by_label("Search").fill("BLUE sea")
    expect(page.locator("#list .open")).to_have_text(["A poem"])
    page.get_by_label("Search").fill("blue paris")
    expect(page.locator("#list .open")).to_have_count(0)
    expect(page.locator("nav")).to_contain_text("No conversation has these words.")
    page.get_by_label("Search").fill("")
    expect(page.locator("#list .open")).to_have_count(2)


def test_a_conversation_is_renamed_also_while_an_answer_comes(page: Page, server: ChatServer) -> None:
    server.script(Text(["Half ", HOLD, "and whole."]))
    ask(page, "first title")
    expect(answers(page).first).to_contain_text("Half")
    page.get_by_role("button", name="Rename or delete first title").click()
    page.get_by_role("button", name="Rename the conversation first title").click()
    page.get_by_label("Title of the conversation").fill("A better title")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("A better title")
    expect(page).to_have_title("A better title - tiny-llama")
    server.release()
    answered(page, "and whole.")
    page.get_by_role("button", name="Rename or delete A better title").click()
    page.get_by_role("button", name="Rename the conversation").click()
    page.get_by_label("Title of the conversation").fill("never")
    page.keyboard.press("Escape")
    page.reload()
    expect(page.locator("#list .open")).to_have_text(["A better title"])


def test_a_conversation_has_its_own_system_message(page: Page, server: ChatServer) -> None:
    server.script(Text(["Aye."]), Text(["Yes."]))
    page.get_by_text("System message: none").click()
    page.get_by_label("Told before this conversation").fill("You are a pirate.")
    ask(page, "Are you?")
    answered(page, "Aye.")
    page.reload()
    answered(page, "Aye.")
    page.locator("#instructions-summary").click()
    expect(page.get_by_label("Told before this conversation")).to_have_value("You are a pirate.")
    page.get_by_role("button", name="New conversation").click()
    ask(page, "Are you?")
    answered(page, "Yes.")
    systems = [[m["content"] for m in sent["messages"] if m["role"] == "system"] for sent in server.requests]
    assert systems == [["You are a pirate."], []]


def test_an_empty_conversation_shows_the_model_and_asks_with_a_click(page: Page, server: ChatServer) -> None:
    server.models, server.facts = ["notes"], {"system_fingerprint": "step-138-ab12", "max_model_len": 512}
    server.script(Text(["Forty-two."]))
    page.reload()
    expect(page.get_by_role("heading", name="notes")).to_be_visible()
    expect(page.locator("#empty")).to_contain_text("weights of step 138 and room for 512 tokens")
    expect(page.locator("#prompts button")).to_have_count(3)
    page.get_by_role("button", name="What is 6 times 7?").click()
    answered(page, "Forty-two.")
    expect(page.locator("#empty")).to_be_hidden()
    assert server.requests[0]["messages"][0]["content"].startswith("What is 6 times 7?")


def test_on_a_phone_the_list_lies_over_the_page(page: Page, server: ChatServer) -> None:
    server.script(*[Text([f"Paragraph {number}.\n\n" for number in range(60)]) for _ in range(2)])
    page.set_viewport_size({"width": 360, "height": 640})
    ask(page, "first")
    answered(page, "Paragraph 59.")
    header = page.locator("header").bounding_box()
    assert header
    assert header["height"] < 60, "one row"
    page.get_by_role("button", name="Conversations").click()
    shown = page.get_by_role("navigation").bounding_box()
    assert shown
    assert (shown["x"], shown["y"], shown["height"]) == (0, 0, 640), "in sight although the page is scrolled to its end"
    expect(page.get_by_role("button", name="Close the list")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("navigation")).to_be_hidden()
    expect(page.get_by_role("button", name="Conversations")).to_be_focused()
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("navigation")).to_be_hidden()
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.get_by_role("button", name="Conversations").click()
    page.mouse.click(350, 300)
    expect(page.get_by_role("navigation")).to_be_hidden()


def test_the_message_box_grows_with_its_text(page: Page) -> None:
    box = page.get_by_label("Message", exact=True)
    before = box.bounding_box()
    box.fill("line\n" * 8)
    after = box.bounding_box()
    assert before
    assert after
    assert after["height"] > before["height"] + 80
