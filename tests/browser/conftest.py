"""Opens pages in the system's Chromium, and fails if they log, warn or load from other hosts."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import (
    Browser,
    ConsoleMessage,
    Dialog,
    Error,
    Page,
    Request,
    async_playwright,
    expect,
)

PATIENCE_MS = 150_000
"""Longer than anything takes on a busy machine. The first document waits for the model, and so does
the first search."""
expect.set_options(timeout=PATIENCE_MS)

Opening = Callable[..., AbstractAsyncContextManager[Page]]


@pytest.fixture(scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=chromium, timeout=PATIENCE_MS)
        yield launched
        await launched.close()


@pytest.fixture
def opened(browser: Browser) -> Opening:
    """Opens a URL in a new browser context.

    On leaving, asserts that the page sent no request elsewhere and, if ``silent``, that it printed
    nothing to the console and opened no dialog.
    """

    @asynccontextmanager
    async def opened(url: str, *, silent: bool = True, **options: Any) -> AsyncIterator[Page]:
        context = await browser.new_context(**options)
        page = await context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        said, elsewhere = _watch(page, url)
        try:
            await page.goto(f"{url}/")
            yield page
        finally:
            await context.close()
        assert elsewhere == []
        assert not silent or said == []

    return opened


def _watch(page: Page, url: str) -> tuple[list[str], list[str]]:
    """Collect what a page prints to the console or in dialogs, and its requests elsewhere."""
    said: list[str] = []
    elsewhere: list[str] = []

    def on_message(message: ConsoleMessage | Dialog) -> None:
        said.append(str(message))

    def on_error(error: Error) -> None:
        said.append(error.message)

    def on_request(request: Request) -> None:
        if not request.url.startswith(f"{url}/"):
            elsewhere.append(request.url)

    page.on("console", on_message)
    page.on("dialog", on_message)
    page.on("pageerror", on_error)
    page.on("request", on_request)
    return said, elsewhere
