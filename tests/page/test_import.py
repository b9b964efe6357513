"""An export of the page can be imported again, in this or another browser; anything else is rejected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.page.acts import answered, ask
from tests.page.server import ChatServer, Text

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]


def test_an_export_is_imported_again(page: Page, server: ChatServer, tmp_path: Path) -> None:
    server.script(Text(["<think>Hm.</think>One."]), Text(["Two."]), Text(["Three."]))
    ask(page, "question")
    answered(page, "One.")
    page.get_by_role("button", name="Regenerate").click()
    answered(page, "Two.")
    page.get_by_role("button", name="Settings").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export as JSON").click()
    file = tmp_path / "conversations.json"
    file.write_bytes(download.value.path().read_bytes())
    page.get_by_role("button", name="Delete", exact=True).last.click()
    expect(page.locator("#list li")).to_have_count(0)
    _import(page, file)
    expect(page.locator("#notice")).to_contain_text("1 conversation was imported.")
    page.get_by_role("button", name="question", exact=True).click()
    page.get_by_role("button", name="Previous version").click()
    expect(answered(page, "One.").locator("details")).to_contain_text("Hm.")
    ask(page, "newer here than in the file")
    answered(page, "Three.", 2)
    _import(page, file)
    expect(page.locator("#notice")).to_contain_text("This browser has all conversations of the file already.")
    answered(page, "Three.", 2)
    page.reload()
    answered(page, "Three.", 2)


@pytest.mark.parametrize(
    "content",
    [
        "{not json",
        "[]",
        '{"format": "other", "version": 1, "conversations": []}',
        '{"format": "halcyon-chat", "version": 1}',
    ],
    ids=["json", "list", "format", "nothing"],
)
def test_a_file_that_is_no_export_is_rejected(page: Page, tmp_path: Path, content: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    _import(page, file)
    expect(page.get_by_role("alert")).to_contain_text("The file is not an export of this page.")
    expect(page.locator("#list li")).to_have_count(0)


def test_what_is_not_valid_in_an_export_is_left_out(page: Page, tmp_path: Path) -> None:
    good = {"id": "good", "title": "<b>good</b>", "created": 1, "updated": 2, "messages": [], "more": "left out"}
    versions = {
        "role": "assistant",
        "content": "One.",
        "earlier": [5, {"role": "user", "content": "no"}],
        "later": "no",
    }
    good["messages"] = [{"role": "user", "content": "question"}, versions]
    bad = [None, {**good, "id": 7}, {**good, "id": "x", "messages": [{"role": "system", "content": "no"}]}]
    file = tmp_path / "conversations.json"
    file.write_text(json.dumps({"format": "halcyon-chat", "version": 1, "conversations": [*bad, good]}))
    _import(page, file)
    expect(page.locator("#list .open")).to_have_text(["<b>good</b>"])
    kept = page.evaluate("() => JSON.parse(localStorage.getItem('halcyon.chat.conversation.good'))")
    assert "more" not in kept
    assert kept["messages"][1] == {"role": "assistant", "content": "One."}


def _import(page: Page, file: Path) -> None:
    page.get_by_role("button", name="Settings").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Import").click()
    chooser.value.set_files(file)
    expect(page.get_by_role("dialog")).to_be_hidden()
