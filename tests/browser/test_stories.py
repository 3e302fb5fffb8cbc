"""A user with `ingestq up`, a watched folder and a browser."""

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.conftest import Opening
from tests.command import Ingestq
from tests.running_command import Running, serving

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Site:
    """The dashboard, and a watched folder."""

    served: Running
    folder: Path

    @property
    def url(self) -> str:
        return self.served.url


@pytest.fixture
def site(ingestq: Ingestq) -> Iterator[Site]:
    folder = ingestq.folder / "drop"
    folder.mkdir()
    settings = {"drop_settle_seconds": "0.2", "pool_size": "1"}
    with serving(ingestq, "up", "--drop", folder, **settings) as served:
        yield Site(served, folder)


def appear(path: Path, content: bytes) -> None:
    """Let a whole file appear: what is still being written is not watched."""
    written = path.with_name(f"{path.name}.part")
    written.write_bytes(content)
    written.rename(path)


def region(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name, exact=True)


async def search(page: Page, query: str) -> Locator:
    await page.get_by_role("searchbox").fill(query)
    await page.get_by_role("searchbox").press("Enter")
    found = page.get_by_role("region", name=f"Results for “{query}”")
    await expect(found).to_be_visible()
    return found


async def test_a_file_is_indexed_found_and_deleted(opened: Opening, site: Site) -> None:
    note = site.folder / "keeper.txt"
    async with opened(site.url) as page:
        appear(note, b"The lighthouse keeper owns two parrots. <script>alert(1)</script>")
        row = region(page, "Recent outcomes").get_by_role("row", name=str(note))
        await expect(row.filter(has_text="1 indexed")).to_be_visible()

        found = await search(page, "who has parrots?")
        await expect(found.get_by_text(str(note))).to_be_visible()
        await expect(found.locator("mark")).to_have_text("parrots")
        await expect(found).to_contain_text("<script>alert(1)</script>")

        note.unlink()
        await expect(row.filter(has_text="1 deleted")).to_be_visible()
        found = await search(page, "who owns parrots?")
        await expect(found).to_contain_text("No results")


async def test_a_rejected_file_can_be_requeued(opened: Opening, site: Site) -> None:
    poison = site.folder / "<script>alert(1)<.pdf"
    async with opened(site.url) as page:
        appear(poison, b"%PDF-1.4\n1 0 obj\n")
        appear(site.folder / "good.txt", b"The ferry leaves at noon.")
        dead_letters, outcomes = region(page, "Dead letters"), region(page, "Recent outcomes")
        await expect(dead_letters.get_by_text("cannot be read as application/pdf")).to_be_visible()
        await expect(outcomes.get_by_text("1 indexed")).to_be_visible()
        await expect(outcomes.get_by_text("1 rejected")).to_have_count(1)

        await dead_letters.get_by_role("button", name=f"Requeue {poison}").press("Enter")
        await expect(page.get_by_text("1 document was queued again.")).to_be_visible()
        await expect(outcomes.get_by_text("1 rejected")).to_have_count(2)
        await expect(dead_letters.get_by_text(str(poison))).to_be_visible()

        poison.unlink()
        appear(poison.with_suffix(".txt"), b"Now it can be read.")
        await expect(outcomes.get_by_role("row", name="alert(1)<.txt")).to_contain_text("1 indexed")


async def test_the_page_shows_that_the_server_stopped(opened: Opening, site: Site) -> None:
    async with opened(site.url, silent=False) as page:
        connection = page.locator("#connection")
        await expect(connection).to_have_text("Live")
        site.served.tell(signal.SIGTERM)
        await asyncio.to_thread(site.served.ends, 0)
        await expect(connection).to_have_text("Disconnected, reconnecting")
