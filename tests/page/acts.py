"""What a user does on the chat page, for tests."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect


def ask(page: Page, text: str) -> None:
    """Write a message and send it with Enter."""
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_label("Message", exact=True).press("Enter")


def answers(page: Page) -> Locator:
    """The messages of the model."""
    return page.locator("#log .assistant")


def answered(page: Page, text: str, number: int = 1) -> Locator:
    """Wait until the given answer is complete and has this text; return it."""
    answer = answers(page).nth(number - 1)
    expect(answer).to_contain_text(text)
    expect(page.locator("#stop")).to_be_hidden()
    return answer


def assert_cheap(page: Page, text: str) -> None:
    """The page's Markdown takes no more than some times as long for this text as for plain emphasis of its length."""
    took = page.evaluate(
        """async (text) => {
            const m = await import('/assets/markdown.js');
            const began = performance.now();
            m.render(m.parse(text, {}).tokens, true);
            const plain = performance.now();
            m.render(m.parse("a*b ".repeat(text.length / 4), {}).tokens, true);
            return [plain - began, performance.now() - plain];
        }""",
        text,
    )
    assert took[0] < 50 * took[1] + 1000, took
