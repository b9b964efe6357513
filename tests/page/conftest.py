"""Fixtures for the chat page: one Chromium for a module, one server for all tests of a process, a new browser profile
for each test.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from rich.console import Console

from halcyon_devcluster.progress import ConsoleProgress
from tests.page.server import ChatServer, chat_server
from tests.suite.browser import ensure_chromium
from tests.suite.builds import cache
from tests.suite.limits import limit


# Not for longer than a module: while it runs, its event loop is that of the main thread, and other tests have their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = ensure_chromium(cache(), ConsoleProgress(Console(stderr=True)))
    milliseconds = limit(20) * 1000
    expect.set_options(timeout=milliseconds)
    with sync_playwright() as playwright:
        # Chromium refuses to start its sandbox as root.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=arguments, timeout=milliseconds)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shared_server() -> Iterator[ChatServer]:
    with chat_server() as server:
        yield server


@pytest.fixture
def server(shared_server: ChatServer) -> ChatServer:
    shared_server.reset()
    return shared_server


@pytest.fixture
def page(browser: Browser, server: ChatServer) -> Iterator[Page]:
    """The chat page in a new profile. The test fails on any uncaught error, and on any request to another server."""
    context = browser.new_context(
        base_url=server.address, viewport={"width": 1000, "height": 700}, color_scheme="light"
    )
    context.set_default_timeout(limit(20) * 1000)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith((server.address, "blob:")) else errors.append(request.url),
    )
    page.goto("/")
    expect(page.get_by_label("Model")).to_be_enabled()
    yield page
    context.close()
    assert errors == []
