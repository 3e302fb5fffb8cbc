"""The documentation as a site: it builds, loads nothing from elsewhere, its calculator works."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from playwright.async_api import expect

from tests.browser.conftest import Opening
from tests.serving import listening

ROOT = Path(__file__).parents[2]
PAGES = list((ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make check` does, and return its folder."""
    folder = tmp_path_factory.mktemp("site")
    mkdocs = Path(sys.executable).parent / "mkdocs"
    built = subprocess.run(
        [mkdocs, "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert built.stdout + built.stderr == ""
    return folder


@pytest.fixture
async def url(site: Path) -> AsyncIterator[str]:
    app = FastAPI()
    app.mount("/", StaticFiles(directory=site, html=True))
    async with listening(app) as url:
        yield url


@pytest.fixture(scope="module")
def pages(site: Path) -> list[Path]:
    """The pages of the site, relative to it."""
    return sorted(path.relative_to(site) for path in site.rglob("*.html"))


@pytest.mark.slow
async def test_every_page_loads_from_the_site_only(
    url: str, pages: list[Path], opened: Opening
) -> None:
    assert len(pages) > len(PAGES)
    async with opened(url) as page:
        for path in pages:
            await page.goto(f"{url}/{path}")
            await expect(page.locator("h1").first).to_be_visible()
            broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).length"
            assert await page.evaluate(broken) == 0, path


@pytest.mark.slow
async def test_diagrams_are_drawn(url: str, opened: Opening) -> None:
    diagrams = (ROOT / "docs/architecture.md").read_text("utf-8").count("```mermaid")
    async with opened(url) as page:
        await page.goto(f"{url}/architecture.html")
        # The theme draws each into a shadow root, and leaves it as text if it cannot.
        await expect(page.locator("div.mermaid")).to_have_count(diagrams)
        await expect(page.locator("pre.mermaid")).to_have_count(0)


@pytest.mark.slow
async def test_the_search_finds_a_page(url: str, opened: Opening) -> None:
    async with opened(url) as page:
        # The theme looks for words when a key was released, which `fill` does not do.
        await page.locator("input[name=query]").press_sequentially("deletion")
        await expect(page.locator(".md-search-result__article").first).to_be_visible()


@pytest.mark.slow
async def test_the_table_of_sizes_is_what_the_calculator_says(url: str, opened: Opening) -> None:
    text = (ROOT / "docs/capacity.md").read_text("utf-8")
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in re.findall(r"^\| [\d,]+0 \|.*\|$", text, re.MULTILINE)
    ]
    outputs = ("memory", "disk", "machines", "shards", "coreHours", "cores", "gpuHours")
    async with opened(url) as page:
        await page.goto(f"{url}/capacity.html")
        for chunks, storage, copies, machine, *figures in rows:
            await page.locator("[name=chunks]").fill(chunks.replace(",", ""))
            await page.locator("[name=storage]").select_option(storage)
            await page.locator("[name=copies]").fill(copies)
            await page.locator("[name=machineGigabytes]").fill(machine)
            shown = [
                await page.locator(f"[data-output={output}]").text_content() for output in outputs
            ]
            assert shown == figures
        await page.locator("[name=chunks]").fill("")
        await page.locator("[name=coreRate]").fill("0")
        await expect(page.locator("[data-output=coreHours]")).to_have_text("–")
    assert len(rows) == 4
