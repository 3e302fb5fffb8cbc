"""No text holds up a process: what reads text takes time that grows linearly with it."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from tempfile import TemporaryFile
from typing import Final
from xml.sax.saxutils import escape

import pytest

from ingestq.api.dashboard.wording import highlighted
from ingestq.core.errors import DocumentRejected
from ingestq.core.excerpts import excerpt
from tests.office_files import docx, open_document, paragraph, word_table
from tests.unit.test_chunker import TOKENIZER
from worker.http_answers import ANY_REASON, AnswerRule, FailedAnswer, to_error
from worker.store.answers import RULES
from worker.text.chunking.chunker import Chunker
from worker.text.chunking.context import Origin, joined, title_of
from worker.text.chunking.word_tokens import token_counts
from worker.text.decoding.decode import decode
from worker.text.extract import extract
from worker.text.formats import web_page
from worker.text.formats.pdf_page import lines_of, page_text, running_lines
from worker.text.media_types import DOCX, ODS, ODT, RTF, likely_types
from worker.text.parser import unescaped
from worker.text.parts import FileStat, Part
from worker.text.text_file import scan
from worker.text.words.bm25 import SparseEncoder

SMALL: Final = 3_000
"""Characters of the smaller text."""
TIMES: Final = 8
"""How much longer the larger text is: quadratic time would take 64 times as long."""
MAX_GROWTH: Final = 24.0
"""Between 8 and 64, with room for caches that fill and for a busy machine."""
NOISE_SECONDS: Final = 0.05
"""Shorter times say nothing about growth."""
ATTEMPTS: Final = 3
"""What grows too fast does so each time; a machine that is busy with something else does not."""
LARGE: Final = 32 * 1024
LARGE_SECONDS: Final = 1.25
"""Of a processor. The slowest takes 0.8 on a slow one."""

TEXTS: Final = {
    "titles": "<title>",
    "heads": "<head",
    "head tags": "<head >",
    "closed heads": "<head></head>",
    "unclosed tags": "<a ",
    "letters after a tag sign": "<aaaaaaaaaaaaaaaa",
    "tag signs": "<",
    "comments": "<!--",
    "closed comments": "<!-- -->",
    "scripts": "<script>",
    "text areas": "<textarea>x",
    "nested elements": "<div>",
    "nested quotes in HTML": "<blockquote>x",
    "paragraphs without end": "<p>x",
    "options without end": "<option>x",
    "formatting without end": "<b><i>x",
    "table cells": "<td>x",
    "tables": "<table><tr><td>",
    "end tags": "</b>",
    "misnested": "<b><i></b></i>",
    "quotes in tags": "<a b='",
    "entities": "&amp",
    "numeric entities": "&#9999999",
    "fences": "```\n",
    "two kinds of fences": "```\n~~~\n",
    "number signs": "#",
    "headings": "# a\n",
    "newlines": "\n",
    "returns": "\r",
    "text with returns": "a\r",
    "spaces": " ",
    "blank lines": " \t\n",
    "combining marks": "\u0301",
    "marks of two classes": "\u0301\u0323",
    "marks between joiners": "\u0301\u0323\u200d",
    "camel case": "aB",
    "identifiers": "a_b.",
    "Korean": "문서를 ",
    "Japanese": "検エ",
    "zero-width spaces": "\u200b",
    "zero-width words": "\u200b ",
    "zero-width lines": "\u200b\n",
    "control characters": "\x01",
    "letters": "a",
    "words of one letter": "a ",
    "words with wide gaps": "a" + " " * 20,
    "lines of one letter": "a\n",
    "quotes": "'\"",
    "full stops": ".",
    "full stops and quotes": ".'\"",
    "ends of sentences": ". ",
    "ideographic full stops": "。」",
    "commas": ", ",
    "digits": "7",
    "links of Org": "[[a]] ",
    "bold words": "*a ",
    "verbatim words": "=a ",
    "numbers": "1,234.5 ",
    "quoted paragraphs": "> ",
    "nested lists": "- ",
    "pipes": "|",
    "rows": "| a | b |\n",
    "braces": "{",
    "brackets": "[",
    "nested objects": '{"a":',
    "nested arrays": "[[",
    "commas of a table": ",",
    "quotes of a table": '"',
    "cells of a table": '"a","b"\n',
    "nested XML": "<a>x",
    "links": "[a](",
    "pictures": "![",
    "pictures with data": "![a](data:",
    "figures": "<Figure size ",
    "lines of base64": "A" * 60 + "\n",
    "commands to a terminal": "\x1b]",
    "stars": "*",
    "underscores": "_",
    "backslashes": "\\",
    "dollar signs": "$",
    "emoji": "👩‍👩‍👧",
    "Chinese": "的一是",
    "Arabic": "كتاب ",
    "URLs": "a://b@",
    "escape signs": "\x1b",
    "escape sequences": "\x1b[0m",
    "escape sequences without end": "\x1b[0;",
    "titles without end": "\x1b]0;a",
    "switches": "\x1b$B",
    "overstriking": "_\x08a",
    "states of progress": "a 1%\r",
    "decomposed letters": "a\u0308",
    "padding": "\0",
    "dots and letters": "a.",
    "questions": "?a&",
    "groups of RTF": "{\\*\\annotation ",
    "deleted groups of RTF": "{\\deleted a}",
    "deletions in RTF": "\\deleted a\\deleted0 ",
    "paragraphs of Word": "<w:p><w:r><w:t>a</w:t></w:r></w:p>",
    "joined paragraphs of Word": (
        "<w:p><w:pPr><w:rPr><w:del/></w:rPr></w:pPr><w:r><w:t>a</w:t></w:r></w:p>"
    ),
    "rows of Word": "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>a</w:t></w:r></w:p></w:tc></w:tr></w:tbl>",
    "max limits": "max a limit of ",
    "tables of Markdown": "| a | b |\n|-|-|\n",
    "underlined headings": "a\n===\n\n",
}

chunker = Chunker(TOKENIZER, 254)
sparse = SparseEncoder()


def parsed_as(media_type: str) -> Callable[[str], object]:
    return lambda text: extract(text.encode(), media_type)


def odt(text: str) -> bytes:
    return open_document("text", f"<text:p>{text}</text:p>")


def spreadsheet(text: str) -> bytes:
    cell = f"<table:table-cell><text:p>{text}</text:p></table:table-cell>"
    return open_document(
        "spreadsheet", f"<table:table><table:table-row>{cell * 2}</table:table-row></table:table>"
    )


def answered(text: str) -> object:
    rules = (*RULES, AnswerRule(range(1000), ANY_REASON, DocumentRejected, "refuses it"))
    return to_error(rules, "Qdrant", FailedAnswer(400, {}, b""), text)


def merged(text: str) -> object:
    """Merge a page that the parser took for other words, and without spaces."""
    lines = lines_of(text)
    running_lines([lines, lines, lines])
    seen: set[str] = set()
    for markdown in (text[::-1], text.replace(" ", "")):
        page_text(lines, markdown, {line: line for line in lines[:3]}, seen)
    return seen


def scanned(text: str) -> object:
    with TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        return scan(file, "text/plain", FileStat.of(os.fstat(file.fileno())))


def notebook(text: str) -> object:
    outputs = [{"output_type": "stream", "text": text}, {"data": {"text/markdown": text}}]
    cells = [{"cell_type": "code", "source": text, "outputs": outputs}, {"source": text}]
    return extract(json.dumps({"cells": cells}).encode(), "application/x-ipynb+json")


def mailbox(text: str) -> object:
    line = "From a Wed Mar  4 10:00:00 2026\n"
    return extract(f"{line}Subject: x\n\n{text}\n{line}{text}".encode(), "application/mbox")


def attachment(text: str) -> object:
    head = "Content-Type: multipart/mixed; boundary=b\n\n--b\n"
    name = f"Content-Disposition: attachment; filename={text}\nContent-Type: a/b; {text}\n\nx\n"
    return extract(f"{head}{name}--b--\n".encode(), "message/rfc822")


FUNCTIONS: Final[dict[str, Callable[[str], object]]] = {
    "web page": web_page.repair,
    "chunks of Markdown": lambda text: chunker.chunks(text, markdown=True),
    "chunks with context": lambda text: chunker.chunks(
        text, markdown=True, origin=Origin(text, text)
    ),
    "chunks under a heading": lambda text: chunker.chunks(f"# {text}", markdown=True),
    "chunks of a table": lambda text: chunker.chunks(f"| a{text}\n|-|-|\n| {text}", markdown=True),
    "joined chunks": lambda text: joined(text.split("\n"), markdown=True),
    "title": lambda text: title_of({}, text, Part(f"---\n{text}", markdown=True)),
    "chunks of plain text": lambda text: chunker.chunks(text, markdown=False),
    "tokens": lambda text: token_counts(TOKENIZER).read([text]),
    "words": sparse.document,
    "query": sparse.query,
    "decoded": lambda text: decode(text.encode()),
    "decoded UTF-16": lambda text: decode(text.encode("utf-16")),
    "decoded Latin-1": lambda text: decode(b"\xe9" + text.encode("latin-1", errors="ignore")),
    "decoded CP949": lambda text: decode("가나".encode("cp949") + text.encode("cp949", "ignore")),
    "decoded with a bad byte": lambda text: decode("가나다".encode() + b"\xff" + text.encode()),
    "scanned": scanned,
    "page of a PDF": merged,
    "Markdown without escapes": unescaped,
    "excerpt": lambda text: excerpt(text, "goose"),
    "excerpt for itself": lambda text: excerpt(text, text[:1000]),
    "highlighted": lambda text: highlighted(text, "a goose"),
    "answer": answered,
    "HTML": parsed_as("text/html"),
    "XML": parsed_as("application/xml"),
    "SVG": parsed_as("image/svg+xml"),
    "JSON": parsed_as("application/json"),
    "JSON Lines": parsed_as("application/x-ndjson"),
    "CSV": parsed_as("text/csv"),
    "e-mail": parsed_as("message/rfc822"),
    "RTF": lambda text: extract(b"{\\rtf1 " + text.encode(), RTF),
    "Word": lambda text: extract(docx(paragraph(escape(text))), DOCX),
    "Word's tables": lambda text: extract(docx(word_table(["a", escape(text)])), DOCX),
    "Word's markup": lambda text: extract(docx(text), DOCX),
    "OpenDocument": lambda text: extract(odt(escape(text)), ODT),
    "spreadsheet": lambda text: extract(spreadsheet(escape(text)), ODS),
    "likely types": lambda text: likely_types(text.encode(), "application/vnd.ms-excel"),
    "reStructuredText": parsed_as("text/x-rst"),
    "Org": parsed_as("text/x-org"),
    "LaTeX": parsed_as("application/x-latex"),
    "notebook": parsed_as("application/x-ipynb+json"),
    "cells of a notebook": notebook,
    "mailbox": mailbox,
    "header": lambda text: extract(b"Subject: " + text.encode(), "message/rfc822"),
    "header of an attachment": attachment,
    "values in XML": lambda text: extract(f"<a><![CDATA[{text}!]]></a>".encode(), "text/xml"),
    "unknown": lambda text: extract(text.encode(), None),
}


def seconds(function: Callable[[str], object], text: str) -> float:
    """Return the processor time that ``function`` takes once.

    The time on a clock also tells how busy the machine is with other tests.
    """
    start = time.process_time()
    with suppress(DocumentRejected):
        function(text)
    return time.process_time() - start


def repeated(part: str, characters: int) -> str:
    return part * (characters // len(part))


def grows_too_fast(function: Callable[[str], object], part: str) -> bool:
    """Return True if eight times the text takes far more than eight times as long.

    Short times are at the mercy of the machine, so what seems to grow too fast has to do so again,
    with a longer text.
    """
    large = seconds(function, repeated(part, TIMES * SMALL))
    if large < NOISE_SECONDS or large < MAX_GROWTH * seconds(function, repeated(part, SMALL)):
        return False
    larger = seconds(function, repeated(part, TIMES**2 * SMALL))
    return larger >= max(NOISE_SECONDS, MAX_GROWTH * large)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_time_grows_linearly(name: str) -> None:
    function = FUNCTIONS[name]
    suspects = TEXTS
    for _ in range(ATTEMPTS):
        suspects = {
            label: part for label, part in suspects.items() if grows_too_fast(function, part)
        }
    assert list(suspects) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_long_text_is_read_soon(name: str) -> None:
    slow = {}
    for label, part in TEXTS.items():
        text = repeated(part, LARGE)
        taken = min(seconds_until_soon(FUNCTIONS[name], text))
        if taken > LARGE_SECONDS:
            slow[label] = taken
    assert slow == {}


def seconds_until_soon(function: Callable[[str], object], text: str) -> Iterator[float]:
    """Yield the processor time of each attempt to read ``text``, until one was short enough."""
    for _ in range(ATTEMPTS):
        yield (taken := seconds(function, text))
        if taken <= LARGE_SECONDS:
            return
