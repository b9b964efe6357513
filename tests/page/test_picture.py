"""The picture of the guide: a conversation on the page."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from tests.page.acts import answered, ask
from tests.page.server import ChatServer, Text
from tests.pictures import keep_screen

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]

ANSWER = """\
A checkpoint is **committed** when its `HEAD` document changes. Before that, every byte is written under a hash:

1. The data of all processes, in files that never change.
2. The manifest, with the size and the hash of each file.
3. The change of `HEAD`, only if it is still the one that was read.

```python
import halcyon

model, tokenizer = halcyon.load("runs/notes")
```

| fault | what is restored |
|---|---|
| killed before step 3 | the checkpoint before |
| a damaged file | the newest step that verifies |
"""


def test_the_page_as_the_guide_shows_it(page: Page, server: ChatServer) -> None:
    server.models = ["stdlib-llama"]
    server.script(Text(["It is the mean over tokens."]), Text([ANSWER]))
    page.reload()
    ask(page, "What is a loss?")
    answered(page, "mean")
    page.get_by_role("button", name="New conversation").click()
    ask(page, "When is a checkpoint safe?")
    answered(page, "a damaged file")
    page.set_viewport_size({"width": 1000, "height": 900})
    png = page.screenshot(animations="disabled", caret="hide")
    assert len(png) < 150_000
    keep_screen("chat-page", png)
