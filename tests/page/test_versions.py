"""The versions of an answer: each new one is kept beside the earlier ones, and the chosen one is sent."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.page.acts import answered, answers, ask
from tests.page.server import HOLD, ChatServer, Rejected, Text
from tests.page.test_access import violations

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]


def sent(server: ChatServer) -> list[str]:
    return [message["content"] for message in server.requests[-1]["messages"]]


def test_the_chosen_version_is_shown_sent_and_kept(page: Page, server: ChatServer) -> None:
    server.script(
        Text(["One."]), Text(["<think>Hm.</think>Two."]), Text(["Three."]), Text(["Good."]), Text(["Better."])
    )
    server.models = ["first", "second"]
    page.reload()
    ask(page, "question")
    expect(answered(page, "One.").get_by_role("group")).to_have_count(0)
    page.locator("#model").select_option("second")
    page.get_by_role("button", name="Regenerate").click()
    answer = answered(page, "Two.")
    expect(answer.locator(".versions")).to_have_text("2/2")
    expect(answer.get_by_role("heading")).to_have_text("second")
    page.get_by_role("button", name="Regenerate").click()
    answered(page, "Three.")
    assert sent(server) == ["question"]
    assert violations(page) == []
    previous, following = (
        page.get_by_role("button", name="Previous version"),
        page.get_by_role("button", name="Next version"),
    )
    expect(following).to_be_disabled()
    previous.click()
    answered(page, "Two.")
    expect(answer.locator("details.thinking")).to_contain_text("Hm.")
    expect(previous).to_be_focused()
    expect(page.locator("#said")).to_have_text("Version 2 of 3")
    page.keyboard.press("Enter")
    answered(page, "One.")
    expect(answer.get_by_role("heading")).to_have_text("first")
    expect(answer.get_by_role("group", name="Version 1 of 3")).to_have_text("1/3")
    expect(following).to_be_focused()
    page.reload()
    answered(page, "One.")
    ask(page, "next")
    answered(page, "Good.", 2)
    assert sent(server) == ["question", "One.", "next"]
    following.click()
    expect(answers(page).first).to_contain_text("Two.")
    expect(answers(page).nth(1)).to_contain_text("Good.")
    answers(page).nth(1).get_by_role("button", name="Regenerate").click()
    answered(page, "Better.", 2)
    assert sent(server) == ["question", "Two.", "next"]


def test_a_new_version_of_an_answer_in_the_middle_can_be_undone(page: Page, server: ChatServer) -> None:
    server.script(Text(["One."]), Text(["Two."]), Text(["Other."]))
    for number, text in enumerate(("One.", "Two.")):
        ask(page, f"question {number}")
        answered(page, text, number + 1)
    page.get_by_role("button", name="Regenerate").first.click()
    answered(page, "Other.")
    expect(page.locator("#notice")).to_contain_text("The later messages were removed.")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#log article")).to_have_count(4)


@pytest.mark.parametrize("end", ["stopped", "closed", "failed"])
def test_a_new_version_without_a_text_loses_no_earlier_one(page: Page, server: ChatServer, end: str) -> None:
    failed: Any = Rejected(400, "Too long.") if end == "failed" else Text([HOLD])
    server.script(Text(["One."]), failed, Text(["Two."]))
    ask(page, "question")
    answered(page, "One.")
    page.get_by_role("button", name="Regenerate").click()
    if end == "stopped":
        page.get_by_role("button", name="Stop", exact=True).click()
        answered(page, "One.")
        expect(page.locator(".versions")).to_have_count(0)
    else:
        if end == "closed":
            expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
            page.reload()
        answered(page, "Too long." if end == "failed" else "The page was closed")
        expect(page.locator(".versions")).to_have_text("2/2")
    page.get_by_role("button", name="Regenerate").click()
    answered(page, "Two.")
    expect(page.locator(".versions")).to_have_text("2/2")
    page.get_by_role("button", name="Previous version").click()
    answered(page, "One.")


def test_an_edited_message_keeps_its_earlier_version_with_all_that_followed(page: Page, server: ChatServer) -> None:
    server.script(*(Text([text]) for text in ("One.", "Two.", "Other.", "Third.", "Fourth.")))
    for number, text in enumerate(("One.", "Two.")):
        ask(page, f"question {number}")
        answered(page, text, number + 1)
    page.get_by_role("button", name="Edit").first.click()
    page.get_by_label("Edit your message").fill("changed")
    page.get_by_label("Edit your message").press("Enter")
    answered(page, "Other.")
    question = page.locator("#log .user").first
    expect(question.locator(".versions")).to_have_text("2/2")
    ask(page, "and then")
    answered(page, "Third.", 2)
    question.get_by_role("button", name="Previous version").click()
    expect(page.locator("#log .content")).to_have_text(["question 0", "One.", "question 1", "Two."])
    expect(question.get_by_role("button", name="Next version")).to_be_focused()
    expect(page.locator("#said")).to_have_text("Version 1 of 2")
    assert violations(page) == []
    page.reload()
    expect(page.locator("#log .content")).to_have_text(["question 0", "One.", "question 1", "Two."])
    page.get_by_role("button", name="Next version").click()
    expect(page.locator("#log .content")).to_have_text(["changed", "Other.", "and then", "Third."])
    ask(page, "last")
    answered(page, "Fourth.", 3)
    assert sent(server) == ["changed", "Other.", "and then", "Third.", "last"]
