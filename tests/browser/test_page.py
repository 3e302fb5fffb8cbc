"""The dashboard in a browser: live updates, accessibility, and use without scripts."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from ingestq.api.app import ApiConfig, create_app
from ingestq.app.composition import Broker
from ingestq.core.documents import Document
from ingestq.core.jobs import IngestBatch, dead_letter_batch
from ingestq.core.results import WorkerInfo
from ingestq.core.search_query import SearchQuery, SearchResult
from tests.browser.conftest import Opening
from tests.claims import batch_of, finish, lease_queue, take
from tests.serving import listening, services
from worker.pipeline.points import SearchHit

NASTY = "<script>alert('x')</script><img src=x onerror=alert(1)>"
TOKEN = "an open sésame, please"
LEAST_CONTRAST = 4.5
"""Contrast of text with its background: WCAG 2.2, level AA."""
CONTRASTS = Path(__file__).with_name("contrasts.js").read_text(encoding="utf-8")


async def search(query: SearchQuery) -> SearchResult[SearchHit]:
    text = f"The keeper says {NASTY}"
    return SearchResult([SearchHit(0.5, NASTY, "notes", 2, text, {"page": 7}, snippet=text)])


@pytest.fixture
async def site(broker: Broker) -> AsyncIterator[str]:
    """A dashboard with something in every panel."""
    await lease_queue(broker).heartbeat("w", WorkerInfo("host", 1, 1, 2.5, 30, paused="full"))
    await give_up(broker, "poison.pdf")
    await broker.queue.offer([batch("waits")])
    async with listening(create_app(services(broker, search), ApiConfig(10_000))) as url:
        yield url


def batch(doc_id: str) -> IngestBatch:
    return IngestBatch(
        "s", (Document(collection="documents", doc_id=doc_id, version=1, source="s", text="text"),)
    )


async def give_up(broker: Broker, doc_id: str) -> None:
    await broker.queue.offer([batch(doc_id)])
    leases = lease_queue(broker)
    [claim] = await take(leases)
    assert await finish(
        leases, claim, dead_letter_batch(batch_of(claim), f"no good: {doc_id}", tries=1)
    )


async def is_live(page: Page) -> None:
    await expect(page.locator("#connection")).to_have_text("Live")


async def focused(page: Page) -> str:
    return str(await page.evaluate("document.activeElement.id"))


async def test_updates_keep_focus_scroll_position_and_clicks(
    opened: Opening, site: str, broker: Broker
) -> None:
    view = {"width": 900, "height": 500}
    async with opened(site, viewport=view, reduced_motion="reduce") as page:
        await is_live(page)
        requeue = page.get_by_role("button", name="Requeue poison.pdf")
        await requeue.focus()
        at, scrolled = await focused(page), await page.evaluate("scrollY")
        assert at.startswith("requeue-")
        await take(lease_queue(broker))  # the one that waits
        await give_up(broker, NASTY)
        section = page.get_by_role("region", name="Dead letters")
        await expect(section.get_by_text(f"no good: {NASTY}")).to_be_visible()
        assert await focused(page) == at
        assert abs(await page.evaluate("scrollY") - scrolled) < 100
        assert scrolled > 0

        await requeue.hover()
        await page.mouse.down()  # what is being pressed is not replaced
        await give_up(broker, "third.pdf")
        await expect(page.locator("[data-region=numbers]")).to_contain_text("Dead letters 3")
        await page.mouse.up()
        await expect(page.get_by_text("1 document was queued again.")).to_be_visible()
        await expect(page).to_have_url(f"{site}/#dead_letters")
        await expect(section.get_by_text("The newest 2 of 2")).to_be_visible()


async def test_the_page_can_be_used_by_keyboard(opened: Opening, site: str) -> None:
    async with opened(site) as page:
        await is_live(page)
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("main")).to_be_focused()
        await page.keyboard.press("Tab")
        assert await focused(page) == "q"
        await page.keyboard.type("Who says script?")
        await page.keyboard.press("Enter")
        found = page.get_by_role("region", name="Results for")
        await expect(found.locator("mark").first).to_have_text("says")
        await expect(found).to_contain_text(f"The keeper says {NASTY}")

        button = page.get_by_role("button", name="Requeue poison.pdf")
        for _ in range(12):
            await page.keyboard.press("Tab")
            if await button.evaluate("it => it === document.activeElement"):
                break
        outline = await button.evaluate("it => getComputedStyle(it).outlineStyle")
        assert outline == "solid"
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("1 document was queued again.")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_has_enough_contrast(opened: Opening, site: str, scheme: str) -> None:
    async with opened(site, color_scheme=scheme) as page:
        await page.goto(f"{site}/?q=keeper&requeued=1&gone=1")
        await is_live(page)
        contrasts = await page.evaluate(CONTRASTS)
        assert len(contrasts) > 50
        assert [found for found in contrasts if found[0] < LEAST_CONTRAST] == []
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(15, 20, 27)") == (scheme == "dark")


@pytest.mark.parametrize("width", [360, 800])
async def test_the_page_fits_a_small_screen(opened: Opening, site: str, width: int) -> None:
    async with opened(site, viewport={"width": width, "height": 700}) as page:
        await page.goto(f"{site}/?q=keeper")
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        button = await page.get_by_role("button", name="Requeue poison.pdf").bounding_box()
        assert button is not None
        assert button["x"] + button["width"] <= width


async def test_the_page_works_without_scripts(opened: Opening, site: str, broker: Broker) -> None:
    async with opened(site, java_script_enabled=False) as page:
        await page.get_by_role("button", name="Requeue all").click()
        await expect(page.get_by_text("1 document was queued again.")).to_be_visible()
        await page.get_by_role("searchbox").fill("keeper")
        await page.get_by_role("button", name="Search").click()
        await expect(page.locator("mark")).to_have_text("keeper")
    assert (await broker.queue.depth()).ready == 2


async def test_a_user_signs_in_and_out(opened: Opening, broker: Broker) -> None:
    app = create_app(services(broker), ApiConfig(10_000, TOKEN))
    async with listening(app) as url, opened(url) as page:
        await expect(page.get_by_label("Server token")).to_be_focused()
        await page.keyboard.type(TOKEN)
        await page.keyboard.press("Enter")
        await is_live(page)
        assert await page.evaluate("document.cookie") == "", "scripts do not see it"
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Server token")).to_be_visible()
        await page.goto(f"{url}/")
        await expect(page.get_by_label("Server token")).to_be_visible()


@pytest.mark.slow
async def test_a_lost_connection_is_shown_and_restored(opened: Opening, broker: Broker) -> None:
    app = create_app(services(broker), ApiConfig(10_000))
    async with listening(app) as url, opened(url, silent=False) as page:
        await is_live(page)
        await page.context.set_offline(True)
        await page.evaluate("dispatchEvent(new Event('pagehide'))")
        await page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
        await expect(page.locator("#connection")).to_have_text("Disconnected, reconnecting")
        await page.context.set_offline(False)
        await is_live(page)
