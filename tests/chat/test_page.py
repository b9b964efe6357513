"""The chat page answers with the model of a chain, from the real server, in a real browser.

With HALCYON_CHAT=FOLDER the chain in that folder is taken instead of a toy, such as `.halcyon/chat`; `make pictures`
can then draw the picture of the guide with a model that has learned something.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from halcyon_chat.chain import model_of, stages
from halcyon_chat.records import read_chain
from halcyon_devcluster.waiting import until
from tests.chat.toy import Chain
from tests.examples.documents import REPOSITORY
from tests.page.acts import answers, ask
from tests.pictures import keep_screen
from tests.suite.limits import limit

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.timeout(3600), pytest.mark.xdist_group("make-chat")]

SERVING = re.compile(r"serving .* at (http://\S+)")


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    """The folder of a chain that is done."""
    if given := os.environ.get("HALCYON_CHAT"):
        return Path(given).resolve()
    calm: Chain = request.getfixturevalue("calm")
    return calm.folder


@pytest.fixture
def address(folder: Path, tmp_path: Path) -> Iterator[str]:
    """The page of the last model, served as `make chat` serves it."""
    model = model_of(stages(read_chain(REPOSITORY / "examples" / "chat"), folder, [])).name
    output = tmp_path / "server.txt"
    command = [sys.executable, "-m", "halcyon_cli.main", "serve", str(folder / model), "--name", model, "--port", "0"]
    with output.open("wb") as file:
        server = subprocess.Popen(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, stdout=file, stderr=file)
    try:
        until(
            lambda: SERVING.search(output.read_text()) is not None or server.poll() is not None,
            timeout_seconds=120,
            failure=output.read_text,
        )
        found = SERVING.search(output.read_text())
        assert found is not None, output.read_text()
        yield found[1]
    finally:
        server.terminate()
        server.wait(limit(60))


def test_the_page_answers_with_the_model_of_the_chain(browser: Browser, address: str, folder: Path) -> None:
    context = browser.new_context(base_url=address, viewport={"width": 1000, "height": 700}, color_scheme="light")
    context.set_default_timeout(limit(60) * 1000)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto("/")
    expect(page.get_by_label("Model")).to_be_enabled()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Max tokens").fill("64")
    page.get_by_role("button", name="Save").click()
    for number, question in enumerate(("How many r are in parameter?", "Thank you!")):
        ask(page, question)
        expect(answers(page)).to_have_count(number + 1)
        expect(page.locator("#stop")).to_be_hidden(timeout=limit(120) * 1000)
    if os.environ.get("HALCYON_CHAT"):
        expect(answers(page).first).to_contain_text("p,a,r 1,a,m,e,t,e,r 2")
        keep_screen("chat", page.screenshot(animations="disabled", caret="hide"))
    assert answers(page).first.inner_text().strip()
    context.close()
    assert errors == []
