"""The page on a touch screen: Enter starts a new line, and the screen keyboard leaves when it is not needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.page.acts import answered
from tests.page.server import ChatServer, Text
from tests.suite.limits import limit

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]


@pytest.fixture
def phone(browser: Browser, server: ChatServer) -> Iterator[Page]:
    context = browser.new_context(
        base_url=server.address, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True
    )
    context.set_default_timeout(limit(20) * 1000)
    page = context.new_page()
    page.goto("/")
    expect(page.get_by_label("Model")).to_be_enabled()
    assert page.evaluate("() => matchMedia('(pointer: coarse)').matches")
    yield page
    context.close()


def test_enter_starts_a_new_line_and_the_box_loses_the_focus_after_sending(phone: Page, server: ChatServer) -> None:
    server.script(Text(["One."]), Text(["Two."]))
    box = phone.get_by_label("Message", exact=True)
    box.tap()
    phone.keyboard.type("first line")
    phone.keyboard.press("Enter")
    phone.keyboard.type("second line")
    expect(box).to_have_value("first line\nsecond line")
    expect(box).to_have_accessible_description("Enter starts a new line, the button “Send” sends.")
    phone.get_by_role("button", name="Send").tap()
    answered(phone, "One.")
    assert server.requests[0]["messages"][0]["content"] == "first line\nsecond line"
    expect(box).not_to_be_focused()
    phone.get_by_role("button", name="Edit").tap()
    editor = phone.get_by_label("Edit your message")
    editor.fill("changed")
    editor.press("Enter")
    expect(editor).to_have_value("changed\n")


def test_an_opened_conversation_is_not_covered_by_the_keyboard(phone: Page, server: ChatServer) -> None:
    server.script(Text(["One."]))
    phone.get_by_label("Message", exact=True).fill("question")
    phone.get_by_role("button", name="Send").tap()
    answered(phone, "One.")
    phone.get_by_role("button", name="Conversations").tap()
    phone.get_by_role("button", name="question", exact=True).tap()
    answered(phone, "One.")
    expect(phone.get_by_label("Message", exact=True)).not_to_be_focused()
    expect(phone.get_by_role("button", name="Conversations")).to_be_focused()
