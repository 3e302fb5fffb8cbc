"""Questions with known answers, as JSON Lines: one object a line, with the fields of `_Line`."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgspec
from msgspec import Struct

from ingestq.app.retrieval_measures import Ranks
from ingestq.client.regular_file import regular_only
from ingestq.core.errors import UsageError, encodable
from ingestq.core.json_errors import json_reason
from ingestq.core.limits import check_texts
from ingestq.core.search_query import QUERY_CHARACTERS, is_blank
from ingestq.core.unicode_forms import composed

MAX_QUESTIONS: Final = 100_000
"""A hundred thousand take hours to search, and figures of a thousand are as good."""
MAX_LINE_BYTES: Final = 1024 * 1024
MAX_EXPECTED: Final = 1000
"""What one question may expect."""
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class FoundText(NamedTuple):
    """What decides whether a hit is expected: its document and its text."""

    doc_id: str
    text: str


@dataclass(frozen=True)
class Question:
    """A question, and what a search for it is expected to find. ``line`` is where it stands.

    Each of ``texts`` is expected in a hit, which has to be of one of ``doc_ids`` if there are any.
    Without ``texts``, a hit of each of ``doc_ids`` is expected.
    """

    line: int
    text: str
    doc_ids: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def ranks(self, hits: Sequence[FoundText]) -> Ranks:
        """Return the rank of the first of ``hits`` that has each thing that is expected."""
        ids = [composed(hit.doc_id) for hit in hits]
        wanted = [composed(doc_id) for doc_id in self.doc_ids]
        if not self.texts:
            return [ids.index(doc_id) + 1 if doc_id in ids else None for doc_id in wanted]
        texts = [
            same_text(hit.text) if not wanted or doc_id in wanted else ""
            for hit, doc_id in zip(hits, ids, strict=True)
        ]
        return [_rank(texts, same_text(expected)) for expected in self.texts]


def same_text(text: str) -> str:
    """Return ``text`` so that case, white space and forms of the same characters do not matter."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _rank(texts: Sequence[str], part: str) -> int | None:
    return next((rank for rank, text in enumerate(texts, 1) if part in text), None)


class _Line(Struct, frozen=True, forbid_unknown_fields=True):
    """A question as users write it, with ``doc_id``, ``text`` or both; see `Question`."""

    question: str
    doc_id: str | list[str] | None = None
    text: str | list[str] | None = None


_decoder = msgspec.json.Decoder(_Line)


def read_questions(path: Path) -> list[Question]:
    """Read the questions in a file of JSON Lines; blank lines are skipped.

    Raises UsageError, which names the file and the first line that is wrong, unless there are
    questions and all are valid.
    """
    name = encodable(str(path))
    questions: list[Question] = []
    wrong: list[str] = []
    try:
        with open(path, "rb", opener=regular_only) as file:
            for number, raw in _lines(file):
                try:
                    questions.append(_question(number, raw))
                except (msgspec.DecodeError, RecursionError, ValueError) as error:
                    wrong.append(f"line {number}: {_reason(error, raw)}")
                if len(questions) > MAX_QUESTIONS:
                    raise UsageError(f"{name} has more than {MAX_QUESTIONS:,} questions")
    except (OSError, ValueError) as error:
        raise UsageError(f"{name} cannot be read: {_reason(error)}") from error
    if wrong:
        more = f"; {len(wrong) - 1:,} more lines are wrong" if len(wrong) > 1 else ""
        raise UsageError(f"{name}, {wrong[0]}{more}")
    if not questions:
        raise UsageError(f"{name} has no questions; see docs/retrieval.md for what it needs")
    return questions


def _reason(error: Exception, data: bytes = b"") -> str:
    match error:
        case OSError():
            return error.strerror or str(error)
        case UnicodeDecodeError():
            return "it is not valid UTF-8"
        case _:
            return encodable(json_reason(error, data))


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers; of a long one, only the start."""
    number, goes_on = 0, False
    while part := file.readline(MAX_LINE_BYTES + 1):
        if not goes_on:
            number += 1
            raw = part.removeprefix(BYTE_ORDER_MARK) if number == 1 else part
            if raw.strip():
                yield number, raw
        goes_on = not part.endswith(b"\n")


def _question(number: int, raw: bytes) -> Question:
    """Return the question in a line. Raises ValueError or one of msgspec's if it is wrong."""
    if len(raw) > MAX_LINE_BYTES:
        raise ValueError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    line = _decoder.decode(raw)
    if is_blank(line.question):
        raise ValueError("the question is blank")
    if len(line.question) > QUERY_CHARACTERS:
        raise ValueError(
            f"the question has {len(line.question):,} characters; the limit is {QUERY_CHARACTERS:,}"
        )
    doc_ids, texts = _each(line.doc_id), _each(line.text)
    if not doc_ids and not texts:
        raise ValueError("it needs doc_id, text or both: what a search is expected to find")
    if len(doc_ids) > MAX_EXPECTED or len(texts) > MAX_EXPECTED:
        raise ValueError(f"a question may expect at most {MAX_EXPECTED:,} documents and texts")
    if not all(map(str.strip, doc_ids)) or not all(map(same_text, texts)):
        raise ValueError("an expected doc_id or text is blank")
    for doc_id in doc_ids:
        check_texts(doc_id=doc_id)
    return Question(number, line.question, doc_ids, texts)


def _each(value: str | list[str] | None) -> tuple[str, ...]:
    """Return the values without repetitions, in order."""
    values = [value] if isinstance(value, str) else value or []
    return tuple(dict.fromkeys(values))
