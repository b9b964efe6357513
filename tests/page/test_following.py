"""The page shows the end of an answer that is coming, until the reader scrolls up."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.page.acts import answered, answers, ask
from tests.page.server import HOLD, ChatServer, Text

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]

BELOW = "() => { const p = document.scrollingElement; return p.scrollHeight - p.scrollTop - p.clientHeight; }"
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"


def paragraphs(start: int, end: int) -> list[str]:
    return [f"Paragraph {number}.\n\n" for number in range(start, end)]


def test_a_late_scroll_event_of_the_page_itself_does_not_end_the_following(page: Page, server: ChatServer) -> None:
    server.script(Text([*paragraphs(0, 60), HOLD, *paragraphs(60, 70)]))
    ask(page, "A long answer")
    expect(answers(page).first).to_contain_text("Paragraph 59.")
    page.wait_for_function(f"() => ({BELOW})() < 2")
    page.evaluate("""() => {
        const more = document.createElement("div");
        more.style.height = "300px";
        document.querySelector("#log article:last-child").append(more);
        dispatchEvent(new Event("scroll"));
    }""")
    page.wait_for_function(f"() => ({BELOW})() < 2")
    server.release()
    answered(page, "Paragraph 69.")
    page.wait_for_function(f"() => ({BELOW})() < 2")


def test_a_reader_who_goes_up_a_little_stays_there(page: Page, server: ChatServer) -> None:
    server.script(Text([*paragraphs(0, 60), HOLD, *paragraphs(60, 90), HOLD, *paragraphs(90, 120)]))
    ask(page, "A long answer")
    expect(answers(page).first).to_contain_text("Paragraph 59.")
    page.wait_for_function(f"() => ({BELOW})() < 2")
    page.mouse.move(500, 300)
    page.mouse.wheel(0, -40)
    page.wait_for_function(f"() => ({BELOW})() > 30")
    page.evaluate(FRAMES)
    top = page.evaluate("() => scrollY")
    server.release()
    expect(answers(page).first).to_contain_text("Paragraph 89.")
    page.evaluate(FRAMES)
    assert page.evaluate("() => scrollY") == top
    page.keyboard.press("End")
    page.evaluate("() => scrollTo(0, document.scrollingElement.scrollHeight)")
    page.wait_for_function(f"() => ({BELOW})() < 2")
    page.evaluate(FRAMES)
    server.release()
    answered(page, "Paragraph 119.")
    page.wait_for_function(f"() => ({BELOW})() < 2")


def test_a_button_leads_to_the_end_and_is_there_only_far_from_it(page: Page, server: ChatServer) -> None:
    server.script(Text([*paragraphs(0, 60), HOLD, *paragraphs(60, 90)]))
    button = page.get_by_role("button", name="To the end")
    ask(page, "A long answer")
    expect(answers(page).first).to_contain_text("Paragraph 59.")
    page.wait_for_function(f"() => ({BELOW})() < 2")
    expect(button).to_be_hidden()
    page.evaluate("() => scrollTo(0, 0)")
    expect(button).to_be_visible()
    page.evaluate(FRAMES)
    button.click()
    expect(button).to_be_hidden()
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.wait_for_function(f"() => ({BELOW})() < 2")
    server.release()
    answered(page, "Paragraph 89.")
    page.wait_for_function(f"() => ({BELOW})() < 2")
    expect(button).to_be_hidden()
