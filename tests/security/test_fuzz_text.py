"""Whatever the bytes of a file are: it has a text, or is rejected; and its chunks are complete."""

import multiprocessing
import random
import re
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ingestq.core.errors import DocumentRejected
from ingestq.core.paths import guess_media_type
from tests.cases.test_archives import tar
from tests.cases.test_mail import letter
from tests.cases.test_slides import frame, presentation, shape, slide
from tests.office_files import docx as stored_docx
from tests.office_files import open_document, paragraph, word_table
from tests.security.test_bombs import archive, cell, docx, epub, nested_mail, odt, workbook
from tests.unit.test_chunker import MAX_TOKENS, TOKENIZER, assert_complete, tokens
from tests.unit.test_extract import EXAMPLES
from worker.text.chunking.chunker import Chunker
from worker.text.decoding.decode import decode
from worker.text.extract import extract

CASES: Final = Path(__file__).parents[1] / "cases"
chunker = Chunker(TOKENIZER, MAX_TOKENS)
small_segments = Chunker(TOKENIZER, MAX_TOKENS, segment_characters=50)

FUZZING: Final = settings(
    max_examples=1_000,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
MUTATIONS: Final = 150
"""Of each file. The parser takes milliseconds for one."""
FILE_SECONDS: Final = 10.0
MEMORY_BYTES: Final = 2 << 30

encodings = st.sampled_from(
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "cp1252", "cp949", "shift_jis", "big5"]
)
odd = st.sampled_from(
    ["\u200b", "\u0301", "\ufeff", "\xad", "\r", "\r\n", "\n\n", "\x0b", "\x85", "\u2028", "\0"]
) | st.sampled_from(
    [
        "```",
        "~~~",
        "# ",
        "> ",
        "|",
        "\x1b[31m",
        "。",
        "👩\u200d👩\u200d👧",
        "[SEP]",
        "\ud7ff",
        "\U0010ffff",
    ]
)
texts = st.lists(st.text(max_size=20) | odd | odd.map(lambda part: part * 50)).map("".join)
encoded = st.tuples(texts, encodings).map(lambda pair: pair[0].encode(pair[1], errors="ignore"))
damaged = st.tuples(encoded, st.binary(max_size=9)).map(b"".join)
contents = st.binary(max_size=2000) | encoded | damaged
TAGS: Final = ("p", "div", "b", "ul", "li", "dl", "dd", "h1", "option")
TABLE_TAGS: Final = ("table", "caption", "thead", "tbody", "tr", "th", "td")
forms = st.sampled_from(["<{}>", "</{}>", "<{} a='>'>"])
tags = st.tuples(forms, st.sampled_from(TAGS + TABLE_TAGS)).map(
    lambda pair: pair[0].format(pair[1])
)
pages = st.lists(tags | tags.map(lambda tag: tag * 70) | st.just(" word "), max_size=60)


@pytest.mark.slow
@FUZZING
@given(data=contents)
def test_bytes_are_text_or_rejected(data: bytes) -> None:
    with suppress(DocumentRejected):
        text = decode(data).text
        assert "\0" not in text
        assert text.encode().decode() == text


@pytest.mark.slow
@pytest.mark.parametrize("cutter", [chunker, small_segments], ids=["whole", "segments"])
@pytest.mark.parametrize("markdown", [False, True])
@FUZZING
@given(text=texts)
def test_chunks_fit_and_lose_nothing_but_white_space(
    cutter: Chunker, markdown: bool, text: str
) -> None:
    chunks = [chunk.body for chunk in cutter.chunks(text, markdown=markdown)]
    assert all(tokens(chunk) <= MAX_TOKENS for chunk in chunks)
    assert_complete(chunks, text, markdown=markdown)


@pytest.mark.slow
@FUZZING
@given(page=pages)
def test_no_word_of_a_page_is_lost(page: list[str]) -> None:
    words = page.count(" word ")
    try:
        text = extract("".join(["<body>", *page]).encode(), "text/html").text
    except DocumentRejected:
        assert words == 0
    else:
        assert len(re.findall("word", text)) == words


def mail_with_attachments() -> bytes:
    message = letter()
    message.add_attachment("goose", filename="새.txt")
    message.add_attachment(letter("Geese", "Thirty-four."))
    message.add_attachment(archive({"a.txt": "goose"}), "application", "zip", filename="a.zip")
    return message.as_bytes()


FILES: Final[dict[str, bytes]] = {
    **{path.name: path.read_bytes() for path in sorted(EXAMPLES.iterdir()) if path.is_file()},
    "a.docx": docx("<w:p><w:r><w:t>goose</w:t></w:r></w:p>"),
    "a.xlsx": workbook(cell("A1", "thirty-four geese")),
    "a.odt": odt("<text:p>goose</text:p>"),
    "a.pptx": presentation(slide(shape("goose"), frame("<a:tbl/>"))),
    "a.xls": (CASES / "old_workbook.xls").read_bytes(),
    "stored.docx": stored_docx(paragraph("goose") + word_table(["a", "b"], ["1", "2"])),
    "stored.ods": open_document(
        "spreadsheet",
        "<table:table><table:table-row><table:table-cell>"
        "<text:p>goose</text:p></table:table-cell></table:table-row></table:table>",
    ),
    "a.epub": epub("<p>goose</p>"),
    "a.eml": nested_mail(3),
    "attached.eml": mail_with_attachments(),
    "a.mbox": b"From a Wed Mar  4 10:00:00 2026\nSubject: =?euc-kr?B?s6255iCw7cDl?=\n\ngoose\n" * 3,
    "a.zip": archive({"a.txt": "goose", "b.md": "# Geese", "c.zip": archive({"d.txt": "goose"})}),
    "a.tar": tar({"a.txt": b"goose", "b.md": b"# Geese"}),
    "a.tgz": tar({"a.txt": b"goose", "b.md": b"# Geese"}, "w:gz"),
    "a.rtf": b"{\\rtf1\\ansi{\\fonttbl{\\f0 Helvetica;}}\\f0 A \\b goose\\b0 .\\par}",
    "a.json": b'{"birds": [{"name": "goose", "count": 34}, null, true, 1.5]}',
    "a.jsonl": b'{"a": "first"}\n{"a": "second"}\n',
    "a.csv": b'bird,count\n"goose, grey",34\n',
    "a.xml": b"<?xml version='1.0'?><a b='c'>goose<!-- d --><e/></a>",
    "a.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><text>goose</text></svg>",
    "a.ipynb": b'{"cells":[{"cell_type":"code","source":["a"],"outputs":[]}],"nbformat":4}',
    "a.rst": b"Geese\n=====\n\n* one\n* two\n",
    "a.org": b"* Geese\n| a | b |\n",
    "a.tex": b"\\section{Geese} $a$ \\begin{table}\\end{table}",
}


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return ``data`` with a few bytes changed, deleted, repeated or moved."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        start = chance.randrange(len(changed) + 1)
        end = min(len(changed), start + chance.choice([1, 4, 64, 1024]))
        match chance.randrange(4):
            case 0:
                changed[start:end] = chance.randbytes(end - start)
            case 1:
                del changed[start:end]
            case 2:
                changed[start:start] = changed[start:end] * chance.choice([1, 2, 50])
            case _:
                place = chance.randrange(len(changed) + 1)
                changed[place:place] = changed[start:end]
    return bytes(changed)


def unexpected(name: str, seconds: float) -> list[str]:
    """Extract mutations of a file; return what was raised besides DocumentRejected."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    chance, found = random.Random(name), []
    end = time.monotonic() + seconds
    for _ in takewhile(lambda _: time.monotonic() < end, range(MUTATIONS)):
        data = mutated(FILES[name], chance)
        try:
            extract(data, guess_media_type(name) if chance.random() < 0.9 else None)
        except DocumentRejected:
            continue
        except BaseException as error:  # a panic of the parser is no Exception
            found.append(f"{error!r}: {data[:2000]!r}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_damaged_files_have_text_or_are_rejected(name: str) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        assert process.submit(unexpected, name, FILE_SECONDS).result() == []
