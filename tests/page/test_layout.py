"""Sizes and places: text boxes, the buttons of the settings, tables, names, labels and the send button."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from playwright.sync_api import FloatRect, Locator, Page, expect

from tests.page.acts import answered, ask
from tests.page.server import PAGE, ChatServer, Text

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]

TABLE = """\
| run | weights | bits per byte | tokens | made by |
|---|--:|--:|--:|---|
| chat-pretrain | 2,100,000 | 1.48 | 2,867,200 | a sentence that is longer than the screen of any phone is wide |
"""


def box_of(locator: Locator) -> FloatRect:
    box = locator.bounding_box()
    assert box is not None
    return box


def test_formulas_have_a_font_for_formulas_where_the_system_has_one(page: Page, server: ChatServer) -> None:
    css = (PAGE / "assets" / "page.css").read_text()
    rule = re.search(r"^math \{\s*font-family: ([^;]*);", css, re.MULTILINE)
    assert rule is not None
    named = re.findall(r'"([^"]+)"', rule[1])
    program = shutil.which("fc-list")
    installed = (
        subprocess.run([program, ":", "family"], capture_output=True, text=True, check=True) if program else None
    )
    known = ("DejaVu Math TeX Gyre", "Noto Sans Math", "STIX Two Math", "Latin Modern Math")
    there = [name for name in known if installed is not None and name in installed.stdout]
    if not there:
        pytest.skip("this system has no font for formulas")
    server.script(Text([r"$$\mathcal{L} = \frac{1}{n} \sum_{i=1}^{n} \ell_i$$"]))
    ask(page, "A formula")
    answered(page, "=")
    session = page.context.new_cdp_session(page)
    root = session.send("DOM.getDocument")["root"]["nodeId"]
    node = session.send("DOM.querySelector", {"nodeId": root, "selector": "math munderover mo"})["nodeId"]
    session.send("CSS.enable")
    fonts = session.send("CSS.getPlatformFontsForNode", {"nodeId": node})["fonts"]
    assert {font["familyName"] for font in fonts} <= set(named)


def test_boxes_for_longer_texts_show_several_lines(page: Page, server: ChatServer) -> None:
    server.script(Text(["One."]))
    ask(page, "question")
    answered(page, "One.")
    page.get_by_role("button", name="Edit").click()
    page.locator("#instructions-summary").click()
    page.get_by_role("button", name="Settings").click()
    for box in (".editor", "#own-system", "#system"):
        assert box_of(page.locator(box))["height"] >= 80, box


@pytest.mark.parametrize(("width", "height"), [(1000, 700), (360, 640)], ids=["wide", "narrow"])
def test_save_and_cancel_are_always_in_sight(page: Page, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.get_by_role("button", name="Settings").click()
    dialog = page.get_by_role("dialog")
    for _ in range(2):
        for name in ("Save", "Cancel"):
            expect(dialog.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
        dialog.evaluate("(one) => one.scrollTo(0, one.scrollHeight)")
    for _ in range(15):
        page.keyboard.press("Tab")
        covered = """() => {
            const one = document.activeElement, row = document.querySelector("#settings-form > .row");
            const box = one.getBoundingClientRect(), top = row.getBoundingClientRect().top;
            const bottom = one.localName === "textarea" ? box.top + 40 : box.bottom;  // the browser shows its caret
            return !row.contains(one) && !one.contains(row) && bottom > top + 1 ? one.outerHTML : null;
        }"""
        assert page.evaluate(covered) is None


def test_a_table_on_a_phone_has_words_and_names_on_one_line(page: Page, server: ChatServer) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    server.script(Text([TABLE]))
    ask(page, "A table")
    answer = answered(page, "1.48")
    assert box_of(answer.locator("thead tr"))["height"] < 45
    cells = answer.locator("tbody td").evaluate_all("all => all.map((one) => one.getBoundingClientRect().width)")
    assert max(cells) <= 320, "a sentence is broken into lines that a phone can show"
    lines = answer.locator("tbody td").first.evaluate(
        "(one) => { const r = document.createRange(); r.selectNodeContents(one); return r.getClientRects().length; }"
    )
    assert lines == 1
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 1000, "height": 700})
    fits = "() => [...document.querySelectorAll('.scrollable')].every((one) => one.scrollWidth <= one.clientWidth)"
    assert page.evaluate(fits), "on a wide screen, the sentence has as many lines as the table needs to fit"


def test_a_long_name_of_a_model_ends_with_an_ellipsis_on_a_phone(page: Page, server: ChatServer) -> None:
    server.models = ["a-model-with-a-rather-long-name"]
    page.set_viewport_size({"width": 360, "height": 640})
    page.reload()
    select = page.locator("#model")
    expect(select).to_be_enabled()
    assert select.evaluate("(one) => getComputedStyle(one).textOverflow") == "ellipsis"
    assert box_of(select)["width"] >= 140
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert box_of(page.locator("header"))["height"] < 60


def test_the_ring_of_the_focus_does_not_cover_a_label(page: Page) -> None:
    """The ring is 3 pixels wide and 2 pixels away from the box."""

    def gap(field: str) -> float:
        label, box = box_of(page.locator(f"label[for={field}]")), box_of(page.locator(f"#{field}"))
        return box["y"] - label["y"] - label["height"]

    assert gap("message") >= 5
    assert box_of(page.locator("#send"))["height"] == box_of(page.locator("#message"))["height"]
    page.get_by_role("button", name="Settings").click()
    for field in ("temperature", "top-p", "max-tokens", "system", "key", "theme"):
        assert gap(field) >= 5, field
