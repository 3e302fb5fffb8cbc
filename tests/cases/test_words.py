"""Words and names are found however they are written: in any language, form and width."""

import json
import unicodedata
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from httpx import ASGITransport, AsyncClient

from ingestq.api.app import ApiConfig, create_app
from ingestq.app.search import DocumentLookup, QdrantOnDemand
from ingestq.app.settings import Settings
from ingestq.core.search_query import Mode, SearchFilter, SearchQuery, parse_condition
from tests.command import Ingestq
from tests.harness import Harness
from tests.serving import services
from tests.waiting import eventually
from worker.store.search import search

MEBIBYTE = 1024 * 1024
KOREAN_NOUNS = Path(__file__).parents[2] / "benchmarks/sets/korean_nouns.jsonl"
PAGE = """<html><body><p>Set max_document_bytes to 900 before ORD_2026_00417 is packed.</p>
<p>The file __init__.py of C# build *nightly* has tag [rel-7] and generic List&lt;Berth&gt;.</p>
<p>Part no. #A-55*2 costs ~12 at depot_9.</p></body></html>"""


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


FORMS = pytest.mark.parametrize("form", [nfc, nfd])
Form = Callable[[str], str]


async def found(harness: Harness, text: str, where: SearchFilter | None = None) -> list[str]:
    """Return the names of the documents whose words match, best first, in NFC."""
    query = SearchQuery(text, 10, Mode.SPARSE, where or SearchFilter())
    hits = await search(harness.qdrant, harness.names, harness.model, query)
    return [nfc(Path(hit.doc_id).name) for hit in hits]


async def work_off(harness: Harness) -> None:
    """Wait until everything is done that is on the queue."""
    await eventually(harness.broker.queue.is_empty)


async def index(harness: Harness, texts: dict[str, str]) -> None:
    """Index a file for each name and text."""
    for name, text in texts.items():
        (harness.root / name).write_text(text, encoding="utf-8")
    summary = await harness.scan()
    assert summary.documents.indexed == len(texts), summary.failed


@asynccontextmanager
async def served(harness: Harness) -> AsyncIterator[AsyncClient]:
    """Yield a client of the API with a look-up in the collection of ``harness``."""
    async with AsyncExitStack() as closing:
        look_up = DocumentLookup(QdrantOnDemand(Settings(), closing, harness.qdrant))
        app = create_app(
            services(harness.broker, index=look_up),
            ApiConfig(MEBIBYTE, collections=(harness.names.alias,)),
        )
        transport = ASGITransport(app)
        yield await closing.enter_async_context(
            AsyncClient(transport=transport, base_url="http://localhost")
        )


async def status_of(harness: Harness, api: AsyncClient, doc_id: str) -> tuple[int, str | None]:
    """Return what the API says of a document: the HTTP status, and its state in the index."""
    answer = await api.get(
        f"/documents/{quote(doc_id, safe='')}", params={"collection": harness.names.alias}
    )
    indexed = answer.json().get("indexed")
    return answer.status_code, indexed and indexed["state"]


async def test_text_in_one_form_is_found_by_a_query_in_another(harness: Harness) -> None:
    texts = {
        "spring.txt": "수경재배 온실의 양액 농도는 매주 월요일에 측정한다.",
        "sizes.txt": "Die Schlüsselgröße für den Kühler ist siebzehn.",
        "width.txt": "型番ＡＢＣ－１２３４の予備品は㍿青葉から届きます。ﾎﾞﾙﾄは別便です。",
    }
    await index(harness, {name: nfd(text) for name, text in texts.items()})
    for form in (nfc, nfd):
        assert await found(harness, form("양액")) == ["spring.txt"]
        assert await found(harness, form("월요일")) == ["spring.txt"]
        assert await found(harness, form("schlüsselgröße")) == ["sizes.txt"]
        assert await found(harness, form("Kühlern")) == ["sizes.txt"]
        assert await found(harness, form("ボルト")) == ["width.txt"]
    assert await found(harness, "abc-1234") == ["width.txt"]
    assert await found(harness, "株式会社青葉") == ["width.txt"]


async def test_identifiers_are_found_as_they_are_written(harness: Harness) -> None:
    await index(harness, {"ids.html": PAGE, "other.txt": "A harbour, a crane and a goose."})
    for written in (
        "max_document_bytes",
        "ORD_2026_00417",
        "__init__.py",
        "C#",
        "nightly",
        "[rel-7]",
        "List<Berth>",
        "#A-55*2",
        "depot_9",
        "00417",
    ):
        assert (await found(harness, written))[:1] == ["ids.html"], written


async def test_a_word_is_found_in_its_other_forms(harness: Harness) -> None:
    await index(
        harness,
        {
            "de.txt": "Die Häuser am Hafen sind alt, und der Kran ist neu.",
            "en.txt": "The ferries of the harbour leave at noon.",
            "ko.txt": "보관함에서 문서를 찾았습니다.",
            "ja.txt": "全文検索エンジンの設定",
            "ru.txt": "Все документы лежат в архиве.",
        },
    )
    assert await found(harness, "Haus") == ["de.txt"]
    assert await found(harness, "ferry") == ["en.txt"]
    assert await found(harness, "문서") == ["ko.txt"]
    assert await found(harness, "検索") == ["ja.txt"]
    assert await found(harness, "документ") == ["ru.txt"]


async def test_korean_nouns_find_their_sentences(harness: Harness) -> None:
    lines = KOREAN_NOUNS.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    await index(harness, {f"{i}.txt": row["text"] for i, row in enumerate(rows)})
    recalled = [
        f"{i}.txt" in (await found(harness, row["question"]))[:5] for i, row in enumerate(rows)
    ]
    assert sum(recalled) / len(rows) >= 0.95


@FORMS
async def test_a_source_is_matched_in_any_form(harness: Harness, form: Form) -> None:
    # Half composed: a folder that was typed here, with a file from a Mac.
    folder = nfc("Größen")
    (harness.root / folder).mkdir()
    name = f"{folder}/{nfd('회의록-봄.txt')}"
    await index(harness, {name: "The ferry leaves at noon.", "other.txt": "The ferry is late."})
    source = str(harness.root / name)
    assert source not in (nfc(source), nfd(source))
    where = SearchFilter(source=form(source))
    assert await found(harness, "ferry", where) == ["회의록-봄.txt"]
    assert await found(harness, "ferry", SearchFilter(source=source)) == ["회의록-봄.txt"]


@FORMS
async def test_metadata_is_matched_in_any_form(harness: Harness, form: Form) -> None:
    for i, value in enumerate((nfc("Größe"), nfd("Größe"), "Weite")):
        await harness.client.submit(
            f"{i}", text="The ferry leaves.", source=f"{i}", metadata={"Maß": value}
        )
    await work_off(harness)
    condition = parse_condition(form("Maß=Größe"))
    assert set(await found(harness, "ferry", SearchFilter((condition,)))) == {"0", "1"}


@FORMS
async def test_a_document_is_shown_and_deleted_by_any_form_of_its_id(
    harness: Harness, form: Form
) -> None:
    names = [nfc("Größen") + nfd("-가을.txt"), nfd("봄.txt"), "plain.txt"]
    await index(harness, dict.fromkeys(names, "The ferry leaves at noon."))
    ids = [str(harness.root / name) for name in names]
    async with served(harness) as api:
        for doc_id in ids[:2]:
            typed = form(doc_id)
            assert await status_of(harness, api, typed) == (200, "indexed")
            deleted = await api.delete(
                f"/documents/{quote(typed, safe='')}", params={"collection": harness.names.alias}
            )
            assert deleted.status_code == 202
        unknown = str(harness.root / "여름.txt")
        assert await status_of(harness, api, unknown) == (404, None)
        await work_off(harness)
        assert await harness.indexed() == {ids[2]}
        assert await status_of(harness, api, form(ids[1])) == (
            200,
            "deleted",
        )


@FORMS
async def test_an_id_is_matched_exactly_if_a_document_has_it(harness: Harness, form: Form) -> None:
    for doc_id in (nfc("봄"), nfd("봄")):
        await harness.client.submit(doc_id, text="The ferry leaves.", source=doc_id)
    await work_off(harness)
    await harness.client.delete(form("봄"), any_form=True)
    await work_off(harness)
    assert await harness.indexed() == {nfd("봄") if form is nfc else nfc("봄")}


async def test_a_program_deletes_only_what_it_names(harness: Harness) -> None:
    """A scan that misses a file means that file, not one that only looks the same."""
    await harness.client.submit(nfd("봄"), text="The ferry leaves.", source="")
    await work_off(harness)
    await harness.client.delete(nfc("봄"))
    await work_off(harness)
    assert await harness.indexed() == {nfd("봄")}


@FORMS
async def test_dead_letters_are_named_in_any_form(harness: Harness, form: Form) -> None:
    (harness.root / nfd("봄.pdf")).write_bytes(b"%PDF-1.4 broken")
    await harness.scan()
    [doc_id] = await harness.dead_letters()
    typed = quote(form(doc_id), safe="")
    async with served(harness) as api:
        asked = {"collection": harness.names.alias}
        assert (await api.get(f"/dead-letters/{typed}", params=asked)).json()["doc_id"] == doc_id
        assert (await api.delete(f"/dead-letters/{typed}", params=asked)).json() == {"purged": 1}
    assert await harness.dead_letters() == {}


@pytest.mark.slow
def test_commands_take_any_form_of_a_name(ingestq: Ingestq) -> None:
    name = "회의록-봄.txt"
    (ingestq.folder / nfd(name)).write_text(nfd("양액 농도는 월요일에 측정한다."), encoding="utf-8")
    (ingestq.folder / nfd("봄.pdf")).write_bytes(b"%PDF-1.4 broken")
    assert ingestq("run", ".").code == 1
    doc_id, broken = (nfc(str(ingestq.folder / x)) for x in (name, "봄.pdf"))
    for arguments in (("--source", doc_id), ()):
        [hit] = ingestq("search", "--sparse", "--json", *arguments, "농도").json["hits"]
        assert hit["doc_id"] == str(ingestq.folder / nfd(name)), "as the file is named"
    assert ingestq("dead", "show", broken, "--json").json["dead_letters"]
    assert ingestq("dead", "purge", broken, "--json").json == {"purged": 1}
    assert ingestq("delete", doc_id).code == 0
    (ingestq.folder / "plain.txt").write_text("A lamp.", encoding="utf-8")
    assert ingestq("run", "plain.txt").code == 0
    assert ingestq("search", "--sparse", "--json", "농도").json["hits"] == []
