"""The chat page in a real Chromium: questions, answers and their ends."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page, expect

from tests.page.acts import answered, answers, ask
from tests.page.server import HOLD, ChatServer, Rejected, Text
from tests.suite.limits import limit

STREAM = {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True}

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]


def test_an_answer_is_shown_while_it_comes(page: Page, server: ChatServer) -> None:
    server.script(Text(["# Sum\n\nIt is ", "**fo", HOLD, "rty-two**.\n\n", "```python\nprint(6", HOLD, " * 7)\n```\n"]))
    ask(page, "What is 6 times 7?")
    answer = answers(page).first
    expect(answer).to_contain_text("It is **fo")
    expect(answer.locator("h3")).to_have_text("Sum")  # the page has the levels 1 and 2
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    server.release()
    expect(answer.locator("strong")).to_have_text("forty-two")
    expect(answer.locator("pre code")).to_have_text("print(6\n")
    server.release()
    expect(answered(page, "forty-two").locator("pre code")).to_have_text("print(6 * 7)\n")
    expect(answer.locator("figcaption")).to_contain_text("python")
    expect(page.get_by_role("heading", level=1)).to_have_text("What is 6 times 7?")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    assert server.requests == [
        {"model": "tiny-llama", "messages": [{"role": "user", "content": "What is 6 times 7?"}], **STREAM}
    ]


def test_the_whole_conversation_is_sent_with_the_next_message(page: Page, server: ChatServer) -> None:
    server.script(Text(["One."]), Text(["Two."]))
    ask(page, "first")
    answered(page, "One.")
    ask(page, "second")
    answered(page, "Two.", 2)
    assert [message["content"] for message in server.requests[1]["messages"]] == ["first", "One.", "second"]


def test_escape_stops_an_answer_and_regenerate_asks_again(page: Page, server: ChatServer) -> None:
    server.script(Text(["The beginning", HOLD, "never shown"]), Text(["Another answer."]))
    ask(page, "Tell me a story")
    expect(answers(page).first).to_contain_text("The beginning")
    page.keyboard.press("Escape")
    answered(page, "You stopped this answer.")
    assert server.gone.wait(limit(20)), "the page did not close the connection"
    page.get_by_role("button", name="Regenerate").click()
    answered(page, "Another answer.")
    assert server.requests[0] == server.requests[1]
    page.get_by_role("button", name="Previous version").click()
    answered(page, "You stopped this answer.")
    expect(answers(page).first).to_contain_text("The beginning")


def test_copying_does_not_end_the_possibility_to_undo(page: Page, server: ChatServer) -> None:
    server.script(Text(["One."]), Text(["Two."]))
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ask(page, "first")
    answered(page, "One.")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit your message").press("Enter")
    answer = answered(page, "Two.")
    expect(page.locator("#notice")).to_contain_text("The edited message was sent.")
    answer.get_by_role("button", name="Copy").click()
    expect(answer.get_by_role("button", name="Copied")).to_be_focused()
    expect(answer.get_by_role("button", name="Copy", exact=True)).to_be_focused()
    page.get_by_role("button", name="Undo").click()
    answered(page, "One.")


def test_editing_a_message_removes_the_later_ones_and_asks_again(page: Page, server: ChatServer) -> None:
    server.script(Text(["One."]), Text(["Two."]), Text(["Three."]))
    ask(page, "first")
    answered(page, "One.")
    ask(page, "second")
    answered(page, "Two.", 2)
    page.get_by_role("button", name="Edit").first.click()
    editor = page.get_by_label("Edit your message")
    expect(editor).to_be_focused()
    editor.fill("changed")
    editor.press("Enter")
    answered(page, "Three.")
    expect(page.locator("#log article")).to_have_count(2)
    assert [message["content"] for message in server.requests[2]["messages"]] == ["changed"]
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#log article")).to_have_count(4)


def test_the_arrow_up_edits_the_last_message_and_escape_leaves_it(page: Page, server: ChatServer) -> None:
    server.script(Text(["One."]))
    ask(page, "first")
    answered(page, "One.")
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("Edit your message")).to_have_value("first")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Edit")).to_be_focused()
    expect(answers(page).first).to_contain_text("One.")


def test_a_busy_server_is_asked_again_after_the_time_that_it_names(page: Page, server: ChatServer) -> None:
    server.script(Rejected(429, "The queue is full.", {"Retry-After": "1"}), Text(["At last."]))
    ask(page, "Are you there?")
    expect(page.locator("#notice")).to_contain_text("The server is busy. The page asks again in 1 s.")
    answered(page, "At last.")
    expect(page.locator("#notice")).to_be_empty()
    assert len(server.requests) == 2


def test_the_wait_for_a_busy_server_can_be_stopped(page: Page, server: ChatServer) -> None:
    server.script(Rejected(429, "The queue is full.", {"Retry-After": "100"}))
    ask(page, "Are you there?")
    expect(page.locator("#notice")).to_contain_text("asks again in 100 s")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#notice")).to_be_empty()
    expect(answers(page)).to_have_count(0)
    expect(page.locator("#log .user")).to_have_text("YouAre you there?Edit")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (Rejected(400, "max_tokens must be at most 128: lower it."), "max_tokens must be at most 128: lower it."),
        (Rejected(429, "Come back tomorrow.", {"Retry-After": "86400"}), "Come back tomorrow."),
        (Rejected(500, ""), "The server answered with status 500."),
        (Text(["half an ans"], finish=None), "The connection ended before the answer was complete."),
        (
            Text(["half"], finish=None, events=[json.dumps({"error": {"message": "The engine stopped."}})]),
            "The engine stopped.",
        ),
        (Text(["half"], finish=None, events=["{not json"]), "The server sent a piece of the answer that is not valid."),
        (Text(["cut"], finish="length"), "The answer reached the limit of tokens."),
        (Text([]), "The model answered with no text."),
    ],
    ids=["rejected", "long-wait", "without-message", "broken-off", "error-event", "not-json", "length", "empty"],
)
def test_the_page_says_plainly_why_an_answer_ended(
    page: Page, server: ChatServer, answer: Text | Rejected, shown: str
) -> None:
    server.script(answer, Text(["Good."]))
    ask(page, "question")
    answered(page, shown)
    page.get_by_role("button", name="Regenerate").click()
    answered(page, "Good.")
    expect(answers(page).first).not_to_contain_text(shown)


def test_an_api_key_is_asked_for_and_kept_for_the_tab_only(page: Page, server: ChatServer) -> None:
    server.key = "secret-key"
    server.script(Text(["Welcome."]))
    page.reload()
    page.get_by_role("button", name="Enter the API key").click()
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    field.fill("secret-key")
    field.press("Enter")
    expect(page.get_by_label("Model")).to_be_enabled()
    ask(page, "hello")
    answered(page, "Welcome.")
    assert server.authorization == ["Bearer secret-key"]
    assert "secret-key" not in page.evaluate("() => JSON.stringify(localStorage)")
    assert "secret-key" in page.evaluate("() => JSON.stringify(sessionStorage)")


def test_settings_are_sent_and_stay_after_a_reload(page: Page, server: ChatServer) -> None:
    server.script(Text(["Yes."]))
    page.get_by_role("button", name="Settings").click()
    for label, value in {
        "Temperature": "0.7",
        "Top-p": "0.9",
        "Max tokens": "64",
        "System message": "Answer in one word.",
    }.items():
        page.get_by_label(label).fill(value)
    page.get_by_text("Top-k, min-p and penalties").click()
    for label, value in {
        "Top-k": "40",
        "Min-p": "0.05",
        "Presence penalty": "-0.5",
        "Frequency penalty": "0.25",
        "Repetition penalty": "1.1",
    }.items():
        page.get_by_label(label).fill(value)
    page.get_by_role("button", name="Save").click()
    page.reload()
    page.get_by_label("Model").select_option("tiny-qwen3")
    ask(page, "Is it?")
    answered(page, "Yes.")
    assert server.requests[0] == {
        "model": "tiny-qwen3",
        "messages": [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "Is it?"}],
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.25,
        "repetition_penalty": 1.1,
        "max_tokens": 64,
        **STREAM,
    }


def test_a_setting_out_of_range_is_not_saved(page: Page) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("7")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.get_by_label("Temperature").evaluate("field => field.validationMessage")
    page.get_by_label("Temperature").fill("")
    folded = page.get_by_text("Top-k, min-p and penalties")
    folded.click()
    page.get_by_label("Min-p").fill("1.5")
    folded.click()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("Min-p")).to_be_visible()  # the message of the browser stands at it
    page.get_by_label("Min-p").fill("0.5")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Min-p")).to_be_visible()  # a setting that holds is not folded away
    page.get_by_role("button", name="Cancel").click()


def test_a_server_that_cannot_be_reached_is_reported(page: Page) -> None:
    page.route("**/v1/**", lambda route: route.abort())
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached.")
    page.unroute("**/v1/**")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_label("Model")).to_be_enabled()
    expect(page.get_by_role("alert")).to_be_empty()


def test_code_is_copied_or_selected_if_the_browser_forbids_that(page: Page, server: ChatServer) -> None:
    server.script(Text(["```sh\nhalcyon serve runs/notes\n```\n"]))
    ask(page, "How?")
    answered(page, "halcyon serve")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy code").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    expect(page.locator("[aria-live=polite]").filter(has_text="Copied.")).to_have_count(1)
    expect(page.locator("#notice")).to_be_empty()
    expect(page.get_by_role("button", name="Copy code")).to_be_visible()
    assert page.evaluate("() => navigator.clipboard.readText()") == "halcyon serve runs/notes\n"
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('forbidden')); }")
    page.get_by_role("button", name="Copy code").click()
    expect(page.locator("#notice")).to_contain_text("The text is selected")
    assert page.evaluate("() => getSelection().toString().trim()") == "halcyon serve runs/notes"
