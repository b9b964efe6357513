"""The pictures of the guide: an answer on a wide screen and in the dark on a phone, and a conversation before it begins."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.page.acts import answered, ask
from tests.page.server import ChatServer, Text
from tests.pictures import keep_screen

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]

ANSWER = r"""
The loss of a text is the mean of what each token costs, $\ell_i = -\log p(x_i \mid x_1, \dots, x_{i-1})$:

$$
\mathcal{L} = \frac{1}{n} \sum_{i=1}^{n} \ell_i
$$

```python
import halcyon

model, tokenizer = halcyon.load("runs/notes")
for completion in halcyon.generate(model, tokenizer, ["6 times seven is"], max_tokens=40):  # one text for each prompt
    print(completion.text)
```

| loss | a token is chosen from about |
|---|---|
| 1 | 3 tokens |
| 3 | 20 tokens |
"""


@pytest.mark.parametrize(
    ("name", "width", "height", "scheme"),
    [("chat-page", 1000, 800, "light"), ("chat-page-phone", 390, 844, "dark")],
    ids=["wide", "phone"],
)
def test_the_page_as_the_guide_shows_it(
    page: Page, server: ChatServer, name: str, width: int, height: int, scheme: Any
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": height})
    server.models = ["stdlib-llama"]
    server.script(Text(["It is the mean over tokens."], tokens=8), Text([ANSWER], tokens=171))
    page.reload()
    ask(page, "How long is a token?")
    answered(page, "mean")
    if width < 500:
        page.get_by_role("button", name="Conversations").click()
    page.get_by_role("button", name="New conversation").click()
    ask(page, "What is a loss?")
    answered(page, "20 tokens")
    _keep(page, name)


def test_an_empty_conversation_as_the_guide_shows_it(page: Page, server: ChatServer) -> None:
    server.models = ["stdlib-llama"]
    server.facts = {"system_fingerprint": "step-138-5a90", "max_model_len": 1024}
    page.set_viewport_size({"width": 1000, "height": 600})
    page.reload()
    expect(page.locator("#empty")).to_contain_text("step 138")
    _keep(page, "chat-page-empty")


def _keep(page: Page, name: str) -> None:
    png = page.screenshot(animations="disabled", caret="hide")
    assert len(png) < 150_000
    keep_screen(name, png)
