"""The page of `halcyon report --html` in a browser: values below the pointer, and a policy that runs no other script."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from halcyon.telemetry.history.background import Row
from halcyon.telemetry.history.reading import read_history
from halcyon_cli.page import page as page_of
from tests.suite.limits import limit
from tests.trainer.telemetry.history.rows import Recorder, group, root, row

pytestmark = pytest.mark.slow


def test_the_curves_show_the_step_and_the_value_below_the_pointer(browser: Browser, tmp_path: Path) -> None:
    store = root(tmp_path / "root", writer="a")
    recorder = Recorder(store.place, group(1, writer="a"), seconds=30.0)
    recorder.flush([row(step, 8.0 / step, gradient_norm=1.5) for step in range(1, 301)])
    recorder.flush([Row("evaluation", 9.0, {"step": 300, "loss": 0.25})])
    path = tmp_path / "page.html"
    path.write_text(
        page_of(read_history(store), 2000.0).replace("</body>", "<script>document.title = 'run'</script></body>")
    )
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    context.set_default_timeout(limit(20) * 1000)
    page = context.new_page()
    errors, requests = list[str](), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    pointed, picture = page.locator(".pointed"), page.locator("figure.curves svg")
    expect(pointed).to_be_hidden()
    box = picture.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.25)
    expect(pointed).to_be_visible()
    text = pointed.inner_text()
    step = int(text.partition("step ")[2].split()[0])
    assert 60 < step < 240
    assert f"tiny: {float(f'{8.0 / step:.6g}')}" in text
    assert "tiny, mean of 6: " in text
    assert "tiny, held out: 0.25 (step 300)" in text
    page.mouse.move(2, 2)
    expect(pointed).to_be_hidden()
    assert page.title() == "tiny", "the policy does not run a script that it does not know"
    assert requests == [path.as_uri()]
    assert errors == []
    context.close()
