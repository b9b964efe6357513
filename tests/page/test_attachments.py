"""Files that go with a message as text: read by the browser, shown, sent, kept; and what is no text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import FilePayload, Page, expect

from tests.page.acts import answered, ask
from tests.page.server import PAGE, ChatServer, Text
from tests.page.test_access import violations

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]

READER = """\
export const GlobalWorkerOptions = {};
export function getDocument({ data }) {
    const text = new TextDecoder().decode(data);
    const pages = text.split("\\n").slice(1).map((line) => [{ str: line, hasEOL: false }, { type: "beginMarkedContent" }, { str: "end", hasEOL: true }]);
    const promise = text.includes("locked") ? Promise.reject(new Error("password")) : Promise.resolve({
        numPages: pages.length, getPage: async (number) => ({ getTextContent: async () => ({ items: pages[number - 1] }) }),
    });
    return { promise, destroy: async () => {} };
}
"""
"""Stands for pdf.js: a page of each line."""


def file(name: str, content: str | bytes) -> FilePayload:
    buffer = content.encode() if isinstance(content, str) else content
    return {"name": name, "mimeType": "application/octet-stream", "buffer": buffer}


def attach(page: Page, *files: FilePayload) -> None:
    page.locator("#attach-files").set_input_files(list(files))


def attached(page: Page, *texts: str) -> None:
    expect(page.locator("#attached li")).to_have_text(list(texts))


def test_texts_are_shown_sent_and_kept(page: Page, server: ChatServer) -> None:
    server.script(Text(["One."]), Text(["Two."]), Text(["Three."]))
    attach(page, file("größe.txt", "\ufeffétat ☃\n"), file("code.md", "```sh\nls\n```"), file("no.csv", "a,b"))
    attached(page, "größe.txt, about 2 tokens", "code.md, about 3 tokens", "no.csv, about 1 token")
    page.get_by_role("button", name="Remove no.csv").click()
    assert violations(page) == []
    ask(page, "What is this?")
    answered(page, "One.")
    attached(page)
    sent = "File größe.txt:\n```\nétat ☃\n```\n\nFile code.md:\n````\n```sh\nls\n```\n````\n\nWhat is this?"
    assert server.requests[0]["messages"] == [{"role": "user", "content": sent}]
    page.reload()
    answered(page, "One.")
    page.get_by_text("code.md, about 3 tokens").click()
    expect(page.locator(".file .content").nth(1)).to_have_text("```sh\nls\n```")
    assert violations(page) == []
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit your message").fill("And this?")
    page.get_by_label("Edit your message").press("Enter")
    answered(page, "Two.")
    assert server.requests[1]["messages"][0]["content"] == sent.replace("What is this?", "And this?")
    page.get_by_role("button", name="New conversation").click()
    attach(page, file("alone.txt", "text"))
    attached(page, "alone.txt, about 1 token")
    ask(page, "")
    answered(page, "Three.")
    assert server.requests[2]["messages"][0]["content"] == "File alone.txt:\n```\ntext\n```"
    expect(page.get_by_role("heading", level=1)).to_have_text("alone.txt")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\xff", "“a.bin” is not text in UTF-8. Convert it first"),
        ("größe".encode("latin-1"), "“a.bin” is not text in UTF-8."),
        (b"zeros \x00 are no text", "“a.bin” is not text in UTF-8."),
        (b" \n", "“a.bin” has no text."),
        (b"x" * 500_001, "“a.bin” has more than 500000 characters: attach a part of it."),
        (
            b"%PDF-1.7\npage",
            "“a.bin” is a PDF, and this server has no pdf.js to read it. Convert it first, for example with pdftotext",
        ),
    ],
    ids=["picture", "latin-1", "zero", "empty", "long", "pdf"],
)
def test_what_is_no_text_is_refused_in_one_sentence(page: Page, content: bytes, sentence: str) -> None:
    page.route("**/pdfjs/*", lambda route: route.fulfill(status=404))
    attach(page, file("a.bin", content), file("good.txt", "good"))
    expect(page.get_by_role("alert")).to_contain_text(sentence)
    attached(page, "good.txt, about 1 token")


def test_files_are_dropped_and_pasted(page: Page) -> None:
    given = """(kind) => {
        const data = new DataTransfer();
        data.items.add(new File(["text"], `${kind}.txt`));
        const event = kind === "drop" ? new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent(kind, { clipboardData: data, bubbles: true, cancelable: true });
        document.getElementById("message").dispatchEvent(event);
        return event.defaultPrevented;
    }"""
    assert page.evaluate(given, "drop") is True
    attached(page, "drop.txt, about 1 token")
    assert page.evaluate(given, "paste") is True
    attached(page, "drop.txt, about 1 token", "paste.txt, about 1 token")


def test_a_pdf_is_read_by_pdf_js_where_it_is_installed(page: Page, server: ChatServer) -> None:
    scripts = {"pdf.min.mjs": READER, "pdf.worker.min.mjs": "export {};"}
    page.route(
        "**/pdfjs/*",
        lambda route: route.fulfill(body=scripts[route.request.url.rpartition("/")[2]], content_type="text/javascript"),
    )
    server.script(Text(["Read."]))
    attach(
        page,
        file("locked.pdf", "%PDF-1.7\nlocked"),
        file("scan.pdf", "%PDF-1.7"),
        file("a.pdf", "%PDF-1.7\nfirst\nsecond"),
    )
    attached(page, "a.pdf, about 6 tokens")
    expect(page.get_by_role("alert")).to_contain_text("“scan.pdf” has no text. Its pages may be pictures.")
    ask(page, "Summarize")
    answered(page, "Read.")
    sent = server.requests[0]["messages"][0]["content"]
    assert sent == "File a.pdf:\n```\nfirstend\n\n\nsecondend\n```\n\nSummarize"
    attach(page, file("locked.pdf", "%PDF-1.7\nlocked"))
    expect(page.get_by_role("alert")).to_contain_text("is a PDF that cannot be read: it is damaged, or has a password.")


PDF = b"""%PDF-1.4
1 0 obj <</Type /Catalog /Pages 2 0 R>> endobj
2 0 obj <</Type /Pages /Kids [3 0 R] /Count 1>> endobj
3 0 obj <</Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents 4 0 R /Resources <</Font <</F 5 0 R>>>>>> endobj
4 0 obj <</Length 67>> stream
BT /F 12 Tf 20 100 Td (Six times seven) Tj 0 -20 Td (is 42.) Tj ET
endstream endobj
5 0 obj <</Type /Font /Subtype /Type1 /BaseFont /Helvetica>> endobj
trailer <</Root 1 0 R>>
"""


@pytest.mark.skipif(not (PAGE / "assets" / "pdfjs").is_dir(), reason="docs/guides/chat.md says how to install pdf.js")
def test_the_published_library_reads_a_pdf_under_the_policy_of_the_page(page: Page) -> None:
    folder = PAGE / "assets" / "pdfjs"
    page.route(
        "**/pdfjs/**",
        lambda route: route.fulfill(path=folder / route.request.url.rpartition("/")[2], content_type="text/javascript"),
    )
    attach(page, file("small.pdf", PDF))
    attached(page, "small.pdf, about 6 tokens")
    found: Any = page.evaluate(
        """async (bytes) => {
            const m = await import("/assets/attachments.js");
            return m.readFile(new File([new Uint8Array(bytes)], "a.pdf"));
        }""",
        list(PDF),
    )
    assert json.dumps(found) == json.dumps({"name": "a.pdf", "text": "Six times seven\nis 42."})
