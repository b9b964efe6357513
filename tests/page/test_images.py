"""Images that go with a message: read and made smaller by the browser, shown, sent, kept as far as there is room."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

from tests.page.acts import answered, ask
from tests.page.server import ChatServer, Text
from tests.page.test_access import violations
from tests.page.test_attachments import attach, attached
from tests.page.test_modules import call

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]


def image(name: str, width: int = 4, height: int = 3, kind: str = "png", noise: int = 256) -> FilePayload:
    content = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, noise, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(content, kind)
    return {"name": name, "mimeType": f"image/{kind}", "buffer": content.getvalue()}


SMALL = image("cat.png")
URI = "data:image/png;base64," + base64.b64encode(SMALL["buffer"]).decode()


@pytest.fixture
def seeing(page: Page, server: ChatServer) -> Page:
    """The page of a model that sees two images."""
    server.facts = {"max_images": 2}
    page.reload()
    expect(page.get_by_label("Model")).to_be_enabled()
    return page


def part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_images_are_shown_sent_and_kept(seeing: Page, server: ChatServer) -> None:
    page = seeing
    server.script(Text(["One."]), Text(["Two."]), Text(["Three."]))
    note: FilePayload = {"name": "note.txt", "mimeType": "text/plain", "buffer": b"text"}
    attach(page, SMALL, note, image("dog.png"))
    page.get_by_role("button", name="Remove dog.png").click()
    expect(page.locator("#attached").get_by_role("img", name="cat.png")).to_be_visible()
    assert violations(page) == []
    ask(page, "What is this?")
    answered(page, "One.")
    attached(page)
    text = {"type": "text", "text": "File note.txt:\n```\ntext\n```\n\nWhat is this?"}
    assert server.requests[0]["messages"] == [{"role": "user", "content": [part(URI), text]}]
    page.reload()
    answered(page, "One.")
    shown = page.locator("#log").get_by_role("img", name="cat.png")
    assert shown.evaluate("async (one) => { await one.decode(); return [one.naturalWidth, one.naturalHeight]; }") == [
        4,
        3,
    ]
    assert violations(page) == []
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit your message").fill("And this?")
    page.get_by_label("Edit your message").press("Enter")
    answered(page, "Two.")
    assert server.requests[1]["messages"][0]["content"][0] == part(URI)
    page.get_by_role("button", name="New conversation").click()
    attach(page, SMALL)
    attached(page, "")
    ask(page, "")
    answered(page, "Three.")
    assert server.requests[2]["messages"] == [{"role": "user", "content": [part(URI)]}]
    expect(page.get_by_role("heading", level=1)).to_have_text("cat.png")


def test_an_image_that_is_large_or_of_another_kind_is_drawn_anew(seeing: Page, server: ChatServer) -> None:
    server.script(Text(["Seen."]))
    attach(seeing, image("photo.png", 1600, 800), image("tiny.bmp", 1, 9, "bmp"))
    attached(seeing, "", "")
    ask(seeing, "What?")
    answered(seeing, "Seen.")
    sizes = []
    for one in server.requests[0]["messages"][0]["content"][:2]:
        head, _, body = one["image_url"]["url"].partition(",")
        assert head == "data:image/jpeg;base64"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(body))).size)
    assert sizes == [(1280, 640), (1, 9)]


def test_what_the_model_cannot_see_is_refused_in_one_sentence(seeing: Page, server: ChatServer) -> None:
    page, alert = seeing, seeing.get_by_role("alert")
    expect(page.locator("#attach")).to_have_attribute("title", "Attach images, or files as text")
    attach(page, {"name": "bad.png", "mimeType": "image/png", "buffer": b"none"})
    expect(alert).to_contain_text("“bad.png” is no image that this browser can read. Convert it to PNG or JPEG first.")
    attach(page, SMALL, image("dog.png"), image("owl.png"))
    expect(alert).to_contain_text("“owl.png” is one too many: this model sees at most 2 images in a conversation.")
    server.script(Text(["Two."]))
    ask(page, "How many?")
    answered(page, "Two.")
    attach(page, image("owl.png"))
    expect(alert).to_contain_text("“owl.png” is one too many")
    server.facts = {"max_images": 0}
    page.reload()
    expect(page.locator("#attach")).to_have_attribute("title", "Attach files as text")
    attach(page, SMALL)
    expect(alert).to_contain_text("“cat.png” is an image, and this model sees none.")
    attached(page)


def test_an_image_is_dropped_and_pasted(seeing: Page) -> None:
    given = """async ([kind, uri]) => {
        const bytes = Uint8Array.from(atob(uri.split(",")[1]), (one) => one.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], `${kind}.png`, { type: "image/png" }));
        const event = kind === "drop" ? new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent(kind, { clipboardData: data, bubbles: true, cancelable: true });
        document.getElementById("message").dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        seeing.evaluate(given, [kind, URI])
        expect(seeing.locator("#attached").get_by_role("img", name=f"{kind}.png")).to_be_visible()


def test_a_full_storage_keeps_all_conversations_and_lets_images_go_first(page: Page) -> None:
    code = """
        const { MemoryStorage } = await import("/assets/storage.js");
        class Small extends MemoryStorage {
            setItem(name, value) {
                if (value.length > x) throw new DOMException("full", "QuotaExceededError");
                super.setItem(name, value);
            }
        }
        const files = [{name: "a.png", image: "data:image/png;base64," + "A".repeat(400)}];
        return [1000, 600].map((size) => {
            const storage = new Small();
            const library = new m.Library(storage, {size, count: 9});
            const put = ["a", "b"].map((id, n) => {
                const messages = [{role: "user", content: id, ...(n && {files})}];
                const {removed, kept, seen} = library.put({id, title: id, created: n, updated: n, messages});
                return [removed.length, kept, seen];
            });
            const image = (one) => one.get("b").messages[0].files[0].image.length;
            return [put, image(library), image(new m.Library(storage))];
        });"""
    fits, first = [[[0, True, True], [0, True, True]], 422, 422], [[[0, True, True], [0, True, False]], 422, 0]
    assert call(page, "library", code, 10_000) == [fits, first]
    assert call(page, "library", code, 300) == [first, first]


def test_an_image_that_was_not_kept_is_named_and_not_sent(page: Page, server: ChatServer) -> None:
    code = """
        const user = (content, ...files) => ({role: "user", content, ...(files.length && {files})});
        const of = (...messages) => m.read({id: "a", title: "", created: 0, updated: 0, messages});
        const image = {name: "a", image: x};
        return {
            sent: [of(user("one", image), user("two")), of(user("one"), user("", image)), of(user("one", {name: "a", image: ""}))].map(
                (one) => m.requestMessages(one, "")[0].content),
            read: ["https://a.example/a.png", "data:image/svg+xml;base64,AA", "data:image/png;base64,A\\"", 1].map(
                (one) => of(user("one", {name: "a", image: one})).messages[0].files ?? null),
        };"""
    found = call(page, "conversations", code, URI)
    between = {"type": "text", "text": "\n\n"}
    assert found["sent"] == [
        [part(URI), {"type": "text", "text": "one"}, between, {"type": "text", "text": "two"}],
        [{"type": "text", "text": "one"}, between, part(URI)],
        "one",
    ]
    assert found["read"] == [None] * 4
