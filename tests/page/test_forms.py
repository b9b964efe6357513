"""Further forms of Markdown: lists of tasks, images, footnotes; and the sign that something scrolls sideways."""

from __future__ import annotations

import base64

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.page.acts import answered, answers, ask, assert_cheap
from tests.page.server import HOLD, ChatServer, Text

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]


def test_boxes_of_tasks(page: Page, server: ChatServer) -> None:
    server.script(
        Text(["- [x] a *done* one\n- [ ] an open one\n- [link](https://example.org)\n- [y] none\n\n[x] none"])
    )
    ask(page, "Tasks")
    answer = answered(page, "none")
    expect(answer.locator(".task")).to_have_text(["☑ a done one", "☐ an open one"])
    expect(answer.locator("li").nth(2)).to_have_text("link")
    expect(answer).to_contain_text("[y] none")
    expect(answer.locator("p")).to_contain_text("[x] none")


def test_an_image_is_a_link_and_is_never_loaded(page: Page, server: ChatServer) -> None:
    """The fixture fails this test after a request to another server."""
    server.script(
        Text(
            [
                "![a *cat*](https://attacker.example/cat.png?secret=1) ![](https://attacker.example/2.png)\n\n"
                "[![badge](https://attacker.example/badge.svg)](https://example.org/)\n\n"
                "![bytes](data:image/png;base64,AAAA)"
            ]
        )
    )
    ask(page, "Images")
    answer = answered(page, "bytes")
    links = answer.locator("a").evaluate_all("all => all.map((one) => [one.textContent, one.href, one.rel])")
    assert links == [
        ["Image: a cat", "https://attacker.example/cat.png?secret=1", "noopener noreferrer"],
        ["Image: without a description", "https://attacker.example/2.png", "noopener noreferrer"],
        ["Image: badge", "https://example.org/", "noopener noreferrer"],
    ]
    expect(answer.locator("img")).to_have_count(0)


NOTES = """\
Water boils[^1] and freezes[^cold]; `[^1]` and \\[^1] and [^none] are no notes.

[^1]: At 100 °C.
[^cold]: At 0 °C,
    at **sea level**.

    A second paragraph.

The end[^1].
"""


def test_a_mark_leads_to_its_note_and_back(page: Page, server: ChatServer) -> None:
    server.script(Text([NOTES]))
    ask(page, "Notes")
    answer = answered(page, "The end")
    marks, notes = answer.locator("sup.note-mark"), answer.locator(".footnote")
    expect(marks).to_have_text(["1", "cold", "1"])
    expect(notes).to_have_count(2)
    expect(notes.nth(0)).to_contain_text("At 100 °C.")
    expect(notes.nth(1).locator("strong")).to_have_text("sea level")
    expect(notes.nth(1).locator("p")).to_have_count(2)
    expect(answer.locator("p").first).to_contain_text("[^1] and [^1] and [^none] are no notes.")
    answer.get_by_role("button", name="To note cold").click()
    expect(notes.nth(1).get_by_role("button", name="Back from note cold")).to_be_focused()
    page.keyboard.press("Enter")
    expect(answer.get_by_role("button", name="To note cold")).to_be_focused()


def test_a_note_is_shown_while_it_comes(page: Page, server: ChatServer) -> None:
    server.script(Text(["See[^1].\n\n[^1]: A no", HOLD, "te.\n"]))
    ask(page, "Notes")
    expect(answers(page).locator(".footnote")).to_contain_text("A no")
    server.release()
    expect(answered(page, "A note.").get_by_role("button", name="To note 1")).to_have_count(1)


@pytest.mark.parametrize(
    "piece",
    ["[^a]: ", "[^a]\n", "[^a]: x\n", "![a](http://b) ", "- [x] ", "[^a]: x\n\n    y\n\n", "[^1", "> [^a]: "],
)
def test_a_hostile_text_costs_no_more_than_its_length(page: Page, piece: str) -> None:
    assert_cheap(page, piece * (40_000 // len(piece)))


def shades(page: Page, box: Locator) -> list[float]:
    """How much darker the left and the right edge of an element are than its middle, near its bottom: -255 to 255."""
    picture = base64.b64encode(box.screenshot()).decode()
    return page.evaluate(
        """async (text) => {
            const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
            const image = await createImageBitmap(new Blob([bytes], {type: "image/png"}));
            const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
            canvas.drawImage(image, 0, 0);
            const row = (x) => canvas.getImageData(x, image.height - 14, 1, 1).data[0];
            const middle = row(Math.floor(image.width / 2));
            return [middle - row(1), middle - row(image.width - 2)];
        }""",
        picture,
    )


@pytest.mark.parametrize("kind", ["table", "code", "formula"])
def test_an_edge_has_a_shadow_while_there_is_more(page: Page, server: ChatServer, kind: str) -> None:
    wide = {
        "table": "|" + "|".join(f" column{number} " for number in range(40)) + "|\n|" + "--|" * 40 + "\n",
        "code": "```\n" + "code " * 100 + "\n```\n",
        "formula": "$$\n" + "+".join(f"x_{{{number}}}" for number in range(80)) + "\n$$\n",
    }[kind]
    narrow = {"table": "| a |\n|--|\n| b |\n", "code": "```\nx\n```\n", "formula": "$$\nx\n$$\n"}[kind]
    server.script(Text([wide + "\n" + narrow]))
    ask(page, "Wide")
    answer = answered(page, "x" if kind != "table" else "b")
    boxes = answer.locator({"table": "div.scrollable", "code": "pre.scrollable", "formula": ".formula.block"}[kind])
    # Below the lines of the text is only the ground of the element.
    boxes.evaluate_all("all => all.forEach((one) => { one.style.paddingBottom = '24px'; })")
    left, right = shades(page, boxes.first)
    assert left < 8 < right
    boxes.first.evaluate("(one) => one.scrollTo(100, 0)")
    left, right = shades(page, boxes.first)
    assert min(left, right) > 8
    boxes.first.evaluate("(one) => one.scrollTo(one.scrollWidth, 0)")
    left, right = shades(page, boxes.first)
    assert right < 8 < left
    assert max(shades(page, boxes.last)) < 8
