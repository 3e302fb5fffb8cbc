"""What a file of every kind says is found by searching it, at its document, part and page.

The other modules of this folder show in detail what is read of each kind. Here one small file of
each goes through the real pipeline into one index.
"""

import unicodedata
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from ingestq.app.composition import Broker
from ingestq.broker.blobs import open_blob_store
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.core.search_query import Mode, SearchQuery
from tests.cases.files import NAMES, all_files
from tests.cases.test_tables import COLUMNS
from tests.harness import Harness
from worker.embedding.pool import ModelPool
from worker.pipeline.points import SearchHit
from worker.store.client import Qdrant
from worker.store.collection import open_collection
from worker.store.schema import fingerprint
from worker.store.search import search

FIRST: Final = 3
"""Among so many hits by words and meaning together, the right one is."""
IDENTIFIED: Final = ("docx", "odt", "xlsx", "pptx", "html", "rtf", "eml")
REJECTED: Final = {
    "bomb.zip": "unpacks to more than 200 times its size",
    "broken.hwp": "cannot be read as application/x-hwp: it is damaged or was cut off",
    "laughs.xml": "entities expand to far more text",
    "loop.pdf": "no readable page",
}
FOUND: Final[Mapping[str, Mapping[str, str]]] = {
    "cjk-legacy-txt": {
        "금요일 소독": "short-ko.txt",
        "예비 열쇠 초록 서랍": "long-ko.txt",
        "똠방각하": "rare-ko.txt",
        "뷁홀": "rare-ko.txt",
        "会議室の鍵": "short-ja.txt",
        "备用钥匙": "short-zh-hans.txt",
        "陽臺": "short-zh-hant.txt",
    },
    "ascii-head-legacy-tail": {
        "냉각기": "tail-ko.log",
        "Rüttler": "tail-de.log",
        "冷却水": "tail-ja.log",
    },
    "excel-csv-legacy": {
        "스테인리스": "excel-ko.csv",
        "A-1002 고무": "excel-ko.csv",
        "Behälter": "excel-de.csv",
        "六角ボルト": "excel-ja.csv",
        "누수": "unicode.csv",
    },
    "utf8-with-a-bad-byte": {"굴림대": "rotated.log", "Öldruck": "stray.log"},
    "ansi-log": {
        "ERROR LX-77120": "colours.log",
        "LX-77120": "colours.log",
        "kestrel-7.4.1": "progress.log",
    },
    "docx-tracked-changes": {
        "ninety crowns": "lease.docx",
        "oars": "lease.docx",
        "storm lantern": "lease.docx",
        "slipway": "lease.docx",
        "wick in the cellar": "lease.docx",
    },
    "docx-parts": dict.fromkeys(
        (
            "amber",
            "lighthouse board",
            "vinegar",
            "annexe",
            "mercury",
            "TX-88",
            "wrench",
            "innermost",
        ),
        "inspection.docx",
    ),
    "xlsx-far-cell": {
        "thirty-four": "far.xlsx › Birds",
        "stray": "far.xlsx › Birds",
        "bittern": "far-neighbour.txt",
    },
    "long-tables": {"KB-577": "long.docx", "Albatross": "long.xlsx › Boats"},
    "pptx-groups-notes": {
        "reeds October": "harvest.pptx, page 1",
        "Foreman Quill": "harvest.pptx, page 2",
        "raft": "harvest.pptx, page 2",
        "LEFTBOX": "harvest.pptx, page 2",
        "RIGHTBOX": "harvest.pptx, page 2",
        "thatch": "harvest.pptx, page 3",
        "flooded ditch": "harvest.pptx, page 4",
    },
    "wrong-suffix": {
        "Fennimore": "report.xls",
        "Galloway": "tabs.xls",
        "Kühler is away": "letter.doc",
        "loft hatch": "saved-page.doc",
        "anvil": "really-docx.doc",
        "aviary": "download.pdf",
        "gatehouse": "events.json",
        "timetable": "pdf-in-disguise.txt, page 1",
        "dovecote": "PAGE.HTM",
    },
    "nfd-names-and-text": {
        "양액": "회의록-봄.txt",
        "Schlüsselgröße": "Größen.txt",
        "ABC-1234": "width.txt",
        "株式会社青葉": "width.txt",
        "ボルト 別便": "width.txt",
    },
    "email-parts": {
        "crane papers": "crane.eml",
        "slewing ring": "crane.eml › checklist.txt",
        "TK-4471": "crane.eml › certificate.pdf, page 1",
        "nine tonnes": "crane.eml › certificate.pdf, page 2",
        "cabin heater": "crane.eml › 별첨.docx",
        "jib light flickers": "crane.eml › Jib light",
        "기사 화요일": "korean.eml",
        "Donnerstag": "html-only.eml",
        "capstan": "outlook.msg",
        "bosun": "outlook.msg › who.txt",
        "winch": "two.mbox › message 1: First",
        "davit": "two.mbox › message 2: Second",
    },
    "pdf-layout": {
        "photosynthesis": "two-columns.pdf, page 1",
        "lorry weekday": "table.pdf, page 1",
        "Ottoline": "rotated.pdf, page 1",
        "peat": "rotated.pdf, page 2",
        "수문 열쇠": "korean-cid.pdf, page 1",
        "水門": "korean-cid.pdf, page 1",
        "placed by itself": "word-by-word.pdf, page 1",
        "Marsh Authority": "running-header.pdf, page 1",
        "sluice 129": "running-header.pdf, page 6",
        "fenders": "list-and-ruled-table.pdf, page 1",
    },
    "notebook": dict.fromkeys(("Marrow gauge", "amplitude", "residuals"), "tide.ipynb"),
    "archives": {
        "mule shod": "papers.zip › a/notes.txt",
        "bridle": "papers.zip › c/cert.pdf, page 1",
        "안장": "papers.zip › d/한글.txt",
        "saddle": "nested.zip › inner.zip › deep/note.txt",
        "hay": "bundle.tar.gz › n.txt",
        "portcullis": "old.log.gz",
        "porridge": "book.epub › Oats",
    },
    "names-and-copies": {f"number{number}": name for number, name in enumerate(NAMES)},
    "small-bombs": {"lichen": "deep.html"},
}
"""By the kind of trouble: what is searched, and where it is found first."""

IN_ALL: Final = {
    "hwpx-table": (
        ("수수료", "등본", "칠백", "공휴일", "부칙"),
        {"guide.hwpx", "renamed.hwp"},
    ),
    "identifiers-escaped": (
        (
            "max_document_bytes",
            "ORD_2026_00417",
            "__init__.py",
            "C#",
            "nightly",
            "[rel-7]",
            "List<Berth>",
            "#A-55*2",
            "depot_9",
        ),
        {"identifiers.pdf"} | {f"ids.{kind}" for kind in IDENTIFIED},
    ),
    "docx-angle-brackets": (
        ("flow > 9 litres", "<ops@example.org>", "Map<Key, Value>", "<b>literal</b>"),
        {"rules.docx", "rules.odt", "rules.pptx"},
    ),
    "names-and-copies": (("otter survey",), {"a/Copy.txt", "b/Copy.txt"}),
}
"""What is searched, and the documents that all are found."""

UNREAD: Final = ("fourscore", "subletting", "margin", "goose")
"""Words of deleted text, of a style sheet and of a bomb: no search finds them."""
GARBLED: Final = ("iVBORw0KGgo", "\x1b", "[35m", "Ã", "Â", "ì", "½", "\\_", "&lt;")
"""Pictures in base64, escape sequences, text in a wrong encoding, escapes of Markdown and HTML."""
QUESTIONS: Final = {
    "How often is the ring of the crane lubricated?": "crane.eml › checklist.txt",
    "Where may passengers with bikes stand?": "upright-lines.pdf, page 1",
    "What does a berth in the north cost?": "list-and-ruled-table.pdf, page 1",
    "Which lamp part must not be touched?": "inspection.docx",
    "How heavy a load can the hook carry?": "crane.eml › certificate.pdf, page 2",
    "When do they put new horseshoes on the mule?": "papers.zip › a/notes.txt",
}


class Index(NamedTuple):
    """The files of this module, indexed; ``failed`` are the reasons of those that were rejected."""

    harness: Harness
    failed: Mapping[str, str]

    def place(self, hit: SearchHit) -> str:
        """Return where a hit is, from the folder on, in NFC."""
        return self._short(hit.place)

    def _short(self, place: str) -> str:
        return unicodedata.normalize("NFC", place.removeprefix(f"{self.harness.root}/"))

    async def hits(self, text: str, mode: Mode, limit: int = 40) -> list[SearchHit]:
        harness = self.harness
        return await search(
            harness.qdrant, harness.names, harness.model, SearchQuery(text, limit, mode)
        )

    async def places(self, text: str, mode: Mode, limit: int = 40) -> list[str]:
        """Return where the hits are, best first, each once."""
        return list(dict.fromkeys(map(self.place, await self.hits(text, mode, limit))))


@pytest.fixture(scope="module")
async def index(
    redis_url: str, qdrant: Qdrant, model: ModelPool, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Index]:
    """All files, indexed by a real worker."""
    root = tmp_path_factory.mktemp("kinds")
    files = all_files()
    for name, data in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)
    config = BrokerConfig(redis_url)
    names = await open_collection(qdrant, f"kinds-{uuid.uuid4().hex[:12]}", fingerprint(model.info))
    async with connected(config) as redis:
        await redis.flushdb()
        blobs = open_blob_store(str(tmp_path_factory.mktemp("blobs")))
        harness = Harness.of(Broker(redis, config, blobs), qdrant, names, model, root)
        async with harness.working():
            summary = await harness.scan()
    assert summary.documents.total == len(files)
    failed = {str(Path(each.doc_id).relative_to(root)): each.reason for each in summary.failed}
    yield Index(harness, failed)
    await qdrant.ask(lambda client: client.delete_collection(names.chunks))
    await qdrant.ask(lambda client: client.delete_collection(names.ledger))


def test_only_what_cannot_be_read_is_rejected_and_for_its_reason(index: Index) -> None:
    assert index.failed.keys() == REJECTED.keys()
    assert {
        name: reason for name, reason in REJECTED.items() if reason not in index.failed[name]
    } == {}


@pytest.mark.parametrize("kind", FOUND)
async def test_what_is_said_in_one_place_is_found_there(index: Index, kind: str) -> None:
    by_words = {text: (await index.places(text, Mode.SPARSE))[:1] for text in FOUND[kind]}
    assert by_words == {text: [place] for text, place in FOUND[kind].items()}
    both = {text: await index.places(text, Mode.HYBRID, FIRST) for text in FOUND[kind]}
    assert {
        text: both[text] for text, place in FOUND[kind].items() if place not in both[text]
    } == {}


@pytest.mark.parametrize("kind", IN_ALL)
async def test_what_is_said_in_many_documents_is_found_in_all(index: Index, kind: str) -> None:
    texts, wanted = IN_ALL[kind]
    for mode in (Mode.SPARSE, Mode.HYBRID):
        for text in texts:
            hits = await index.places(text, mode)
            found = [place.partition(",")[0].partition(" ›")[0] for place in hits]
            # By meaning, others may be near.
            found = found[: len(wanted)] if mode is Mode.SPARSE else found
            assert wanted <= set(found), (text, mode)


async def test_questions_find_their_answers_by_meaning(index: Index) -> None:
    found = {text: await index.places(text, Mode.DENSE, FIRST) for text in QUESTIONS}
    assert {
        text: found[text] for text, place in QUESTIONS.items() if place not in found[text]
    } == {}


async def test_rows_of_long_tables_are_found_with_their_columns(index: Index) -> None:
    for name in ("long.csv", "long.xlsx › Spare parts"):
        hits = await index.hits("GX-1053", Mode.SPARSE)
        hit = next(hit for hit in hits if index.place(hit) == name)
        header, _, *rows = hit.text.splitlines()
        assert header.strip("| ").split(" | ") == list(COLUMNS)
        assert sum("GX-1053" in row for row in rows) == 1
    hit, *_ = await index.hits("KB-577", Mode.SPARSE)
    assert "KB-577" in hit.text
    assert hit.text.startswith("| bolt | torque Nm |")


async def test_what_no_reader_sees_is_not_found(index: Index) -> None:
    assert {
        text: found for text in UNREAD if (found := await index.places(text, Mode.SPARSE))
    } == {}
    stored = [payload["page_content"] for payload in await index.harness.payloads()]
    assert {sign for sign in GARBLED if any(sign in text for text in stored)} == set()
    damaged = {
        payload["doc_id"]
        for payload in await index.harness.payloads()
        if "\ufffd" in payload["page_content"]
    }
    assert {Path(doc_id).name for doc_id in damaged} == {"rotated.log", "stray.log"}


@pytest.mark.parametrize("once", ["mercury", "oars", "LEFTBOX", "photosynthesis", "papers are"])
async def test_what_is_said_once_is_stored_once(index: Index, once: str) -> None:
    stored = "\n".join(
        payload["page_content"].lower() for payload in await index.harness.payloads()
    )
    assert stored.count(once.lower()) == 1
