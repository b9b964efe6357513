"""The list of conversations: titles have the room, dates are headings, and one button opens what can be done."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.page.acts import answered, ask
from tests.page.server import ChatServer, Text

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]

TITLE = "Show me everything that you know"
KEEP = """(list) => {
    for (const [id, updated] of list) {
        const messages = [{role: "user", content: id}, {role: "assistant", content: "Answer to " + id, finish: "stop"}];
        localStorage.setItem("halcyon.chat.conversation." + id, JSON.stringify({id, title: id, created: 1, updated, messages}));
    }
}"""


def test_dates_are_headings_of_the_list(page: Page) -> None:
    page.clock.set_fixed_time("2026-03-29T12:00:00")
    now, hour = page.evaluate("() => Date.now()"), 3_600_000
    page.evaluate(KEEP, [["a", now - hour], ["b", now - 11 * hour], ["c", now - 13 * hour], ["d", now - 90 * hour]])
    page.evaluate(KEEP, [["later", now + 1000 * hour]])
    page.reload()
    names = page.locator("#list :is(h2, .open)").all_inner_texts()
    assert names == ["Today", "later", "a", "b", "Yesterday", "c", "Earlier", "d"]
    page.get_by_label("Search").fill("to c")
    assert page.locator("#list :is(h2, .open)").all_inner_texts() == ["Yesterday", "c"]


def test_a_title_has_the_room_of_its_row(page: Page, server: ChatServer) -> None:
    server.script(Text(["One."]))
    ask(page, TITLE)
    answered(page, "One.")
    widths = page.locator("#list .open").evaluate("(one) => [one.clientWidth, one.closest('nav').clientWidth]")
    assert widths[0] > widths[1] - 75


def test_what_can_be_done_with_a_conversation_is_reached_with_the_keyboard(page: Page) -> None:
    page.evaluate(KEEP, [["first", 2], ["second", 1]])
    page.reload()
    more = page.get_by_role("button", name="Rename or delete second")
    expect(more).to_have_attribute("aria-expanded", "false")
    more.focus()
    page.keyboard.press("Enter")
    expect(more).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Rename the conversation second")).to_be_focused()
    page.keyboard.press("Escape")
    expect(more).to_be_focused()
    expect(more).to_have_attribute("aria-expanded", "false")
    more.click()
    page.get_by_role("button", name="Rename or delete first").click()
    expect(page.get_by_role("button", name="Delete the conversation second")).to_have_count(0)
    page.get_by_role("button", name="Rename the conversation first").click()
    page.get_by_label("Title of the conversation").fill("better")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Rename or delete better")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#list .open")).to_have_text(["second"])
    expect(page.locator("#list .open")).to_be_focused()


def test_shortcuts_begin_a_conversation_and_search(page: Page, server: ChatServer) -> None:
    server.script(Text(["One."]))
    ask(page, "question")
    answered(page, "One.")
    page.keyboard.press("Control+k")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.press("Control+Shift+o")
    expect(page.locator("#log article")).to_have_count(0)
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.set_viewport_size({"width": 360, "height": 640})
    page.keyboard.press("Control+k")
    expect(page.locator("#search")).to_be_focused()
