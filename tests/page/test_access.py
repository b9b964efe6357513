"""The chat page is usable by keyboard alone, with a screen reader, in light and dark, on a narrow screen, and without
motion.
"""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page, expect

from tests.page.acts import answered, answers, ask
from tests.page.server import HOLD, ChatServer, Rejected, Text

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]

RICH = """\
# A heading

Some *text* with `code` and a [link](https://example.org/).

## A part

| name | value |
|---|--:|
| a long name of something that is measured | 1.25 |

```python
for number in range(1_000_000): print("a line of code that is wider than a narrow screen", number, number ** 2)
```

- [x] a task with a note[^1]
- [ ] another one, with an ![image](https://example.org/a.png)

[^1]: The note.

> A quotation.
"""


def violations(page: Page) -> list[dict[str, Any]]:
    """What axe-core finds on the page, by the rules of WCAG 2.2 A and AA and its best practices."""
    session = page.context.new_cdp_session(page)
    try:
        # Unlike `page.evaluate`, the protocol may evaluate a text although the page's policy forbids it.
        session.send("Runtime.evaluate", {"expression": AXE_SCRIPT, "allowUnsafeEvalBlockedByCSP": True})
    finally:
        session.detach()
    found = page.evaluate("() => axe.run({resultTypes: ['violations', 'incomplete']})")
    serious = [one for one in found["incomplete"] if one["id"] != "color-contrast"]
    return [
        {"rule": one["id"], "nodes": [node["html"] for node in one["nodes"]]}
        for one in [*found["violations"], *serious]
    ]


@pytest.mark.parametrize("width", [1000, 360], ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken(page: Page, server: ChatServer, scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 700})
    assert violations(page) == []
    server.script(Text([RICH]), Rejected(400, "The question is too long."), Text(["Half ", HOLD]))
    ask(page, "Show me everything")
    answered(page, "A quotation.")
    ask(page, "Fail")
    answered(page, "The question is too long.", 2)
    ask(page, "Wait")
    expect(answers(page).nth(2)).to_contain_text("Half")
    assert violations(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), (
        "the page is wider than the screen"
    )
    page.get_by_role("button", name="Stop", exact=True).click()
    answered(page, "You stopped", 3)
    page.get_by_role("button", name="Edit").first.click()
    if width == 360:
        page.get_by_role("button", name="Conversations").click()
        expect(page.get_by_role("navigation")).to_be_visible()
    page.get_by_role("button", name="Rename or delete Show me everything").click()
    assert violations(page) == []
    page.get_by_role("button", name="Delete the conversation").click()
    assert violations(page) == []
    if width == 360:
        page.keyboard.press("Escape")
    page.get_by_role("button", name="Settings").click()
    page.get_by_text("Top-k, min-p and penalties").click()
    assert violations(page) == []


def test_the_tree_of_roles_that_a_screen_reader_gets(page: Page, server: ChatServer) -> None:
    server.script(Text(["An answer with `code`.\n\n```js\nrun()\n```\n"]))
    ask(page, "A question")
    answered(page, "An answer")
    expect(page.locator("body")).to_match_aria_snapshot("""
        - banner:
          - heading "A question" [level=1]
          - combobox "Model"
          - button "Export"
          - button "Settings"
        - navigation "Conversations":
          - button "New conversation"
          - text: Search
          - searchbox "Search"
          - heading "Today" [level=2]
          - list "Today":
            - listitem:
              - button "A question"
              - button "Rename or delete A question"
        - main:
          - group: "System message: none"
          - log "Messages":
            - article "You":
              - heading "You" [level=2]
              - button "Edit"
            - article "tiny-llama":
              - heading "tiny-llama" [level=2]
              - paragraph
              - figure:
                - button "Copy code"
                - group "Code in js"
              - button "Copy"
              - button "Regenerate"
          - alert
          - status
          - textbox "Message"
          - button "Send"
    """)


def test_finished_parts_of_an_answer_are_announced_once(page: Page, server: ChatServer) -> None:
    """What enters the live region outside the part that still changes is announced: each paragraph once, and no half of
    one.
    """
    server.script(Text(["First par", "agraph.\n\n", HOLD, "Second", HOLD, " paragraph."]))
    page.evaluate("""() => {
        window.announced = [];
        new MutationObserver((changes) => {
            for (const {target, addedNodes} of changes) {
                const live = target.closest("[aria-live]");
                if (live?.getAttribute("aria-live") === "polite") announced.push(...[...addedNodes].map((node) => node.textContent.trim()));
            }
        }).observe(document.getElementById("log"), {childList: true, subtree: true});
    }""")
    ask(page, "Question")
    expect(answers(page).first).to_contain_text("First paragraph.")
    server.release()
    expect(answers(page).first).to_contain_text("Second")
    server.release()
    answered(page, "Second paragraph.")
    texts = [text for text in page.evaluate("() => announced") if "paragraph" in text]
    assert texts == ["First paragraph.", "Second paragraph."]


def test_the_keyboard_alone_reaches_everything(page: Page, server: ChatServer) -> None:
    server.script(Text(["```\ncode\n```\n"]), Text(["Again."]))
    focused = """() => {
        const one = document.activeElement;
        return one.getAttribute("aria-label") || one.textContent.trim() || one.id;
    }"""
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.type("question")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    answered(page, "code")
    assert server.requests[0]["messages"][0]["content"] == "question\nsecond line"
    page.locator("body").evaluate("() => document.activeElement.blur()")
    page.evaluate("() => getSelection().removeAllRanges()")
    page.reload()
    answered(page, "code")
    page.evaluate("() => document.activeElement.blur()")
    order = []
    for _ in range(20):
        page.keyboard.press("Tab")
        order.append(page.evaluate(focused))
    wanted = [
        "Go to the message box",
        "tiny-llamatiny-qwen3",
        "Export",
        "Settings",
        "New conversation",
        "search",
        "question",
        "Rename or delete question",
        "System message: none",
        "Edit",
    ]
    wanted += ["Copy code", "Code", "Copy", "Regenerate", "Attach", "message", "Send"]
    start = order.index(wanted[0])
    assert order[start : start + len(wanted)] == wanted[: len(order) - start]
    for _ in range(40):
        page.keyboard.press("Shift+Tab")
        if page.evaluate(focused) == "Regenerate":
            break
    page.keyboard.press("Enter")
    answered(page, "Again.")
    page.keyboard.press("Shift+Tab")
    expect(page.locator(":focus")).to_be_visible()


def test_the_settings_dialog_keeps_the_focus_and_gives_it_back(page: Page) -> None:
    opener = page.get_by_role("button", name="Settings")
    opener.focus()
    page.keyboard.press("Enter")
    for _ in range(15):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "() => document.activeElement === document.body || Boolean(document.activeElement.closest('dialog'))"
        )
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(opener).to_be_focused()


def test_colours_follow_the_system_or_the_setting(page: Page) -> None:
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    assert light != dark
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Colours").select_option("Light")
    page.get_by_role("button", name="Save").click()
    assert page.evaluate(ground) == light
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    assert page.evaluate(ground) == light


@pytest.mark.parametrize(("motion", "moves"), [("no-preference", True), ("reduce", False)])
def test_nothing_moves_if_the_user_wants_less_motion(page: Page, server: ChatServer, motion: Any, moves: bool) -> None:
    page.emulate_media(reduced_motion=motion)
    server.script(Text(["Half ", HOLD]))
    ask(page, "question")
    expect(answers(page).first).to_contain_text("Half")
    assert page.evaluate("() => document.getAnimations().length > 0") is moves


def test_the_end_stays_in_view_unless_the_user_scrolls_up(page: Page, server: ChatServer) -> None:
    paragraphs = [f"Paragraph {number}.\n\n" for number in range(1500)]
    server.script(Text([*paragraphs[:1000], HOLD, *paragraphs[1000:1200], HOLD, *paragraphs[1200:]]))
    ask(page, "A very long answer, please")
    answer = answers(page).first
    expect(answer).to_contain_text("Paragraph 999.")
    expect(answer.locator("p").last).to_be_in_viewport()
    page.evaluate("() => scrollTo(0, 500)")
    page.wait_for_function("() => scrollY === 500")
    server.release()
    expect(answer).to_contain_text("Paragraph 1199.")
    assert page.evaluate("() => scrollY") == 500
    server.release()
    answered(page, "Paragraph 1499.")
    expect(answer.locator("p")).to_have_count(1500)
