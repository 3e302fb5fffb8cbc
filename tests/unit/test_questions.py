"""Files of questions are read, or refused with the line and what is wrong with it."""

import unicodedata
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.app.questions import FoundText, Question, read_questions
from ingestq.core.errors import UsageError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "questions.jsonl"


def test_one_or_several_documents_and_texts_are_read(file: Path) -> None:
    file.write_bytes(
        b'\xef\xbb\xbf{"question": "a?", "doc_id": "x"}\r\n'
        b"\n"
        b'{"question": "b?", "text": ["one", "two", "one"]}\n'
        b'{"question": "c?", "doc_id": ["x", "y"], "text": "three"}'
    )
    assert read_questions(file) == [
        Question(1, "a?", ("x",)),
        Question(3, "b?", (), ("one", "two")),
        Question(4, "c?", ("x", "y"), ("three",)),
    ]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b"", "has no questions"),
        (b"\n  \n", "has no questions"),
        (b'{"question": "a", "doc_id": "x"}\nnonsense', "line 2: JSON is malformed"),
        (b'{"doc_id": "x"}', "line 1: Object missing required field `question`"),
        (b'{"question": "a", "docid": "x"}', "unknown field `docid`"),
        (b'{"question": "a", "doc_id": 7}', "line 1: Expected `str | array | null`, got `int`"),
        (b'{"question": "a"}', "it needs doc_id, text or both"),
        (b'{"question": "a", "doc_id": []}', "it needs doc_id, text or both"),
        (b'{"question": " ", "doc_id": "x"}', "the question is blank"),
        (b'{"question": "a", "doc_id": ["x", " "]}', "an expected doc_id or text is blank"),
        (b'{"question": "a", "text": "\\u00a0"}', "an expected doc_id or text is blank"),
        (b'{"question": "a", "doc_id": "\xff"}', "line 1: it is not valid UTF-8"),
        (b'{"question": "a", "doc_id": "\\ud800"}', "line 1: "),
        (b'{"question": "' + b"a" * 9000 + b'", "doc_id": "x"}', "has 9,000 characters"),
        (b'{"question": "a", "doc_id": "' + b"x" * 2**21 + b'"}', "longer than 1,048,576 bytes"),
        (b"[" * 100_000, "line 1: "),
        (b"x\ny\nz", "line 1: JSON is malformed: invalid character (byte 0); 2 more lines"),
    ],
)
def test_a_wrong_file_is_refused(file: Path, lines: bytes, said: str) -> None:
    file.write_bytes(lines)
    with pytest.raises(UsageError) as refused:
        read_questions(file)
    assert said in str(refused.value)
    assert str(file) in str(refused.value)


def test_a_line_after_a_long_one_has_its_own_number(file: Path) -> None:
    file.write_bytes(b'{"question": "a", "doc_id": "x"}\n' + b"x" * 3 * 2**20 + b"\nnonsense\n")
    with pytest.raises(UsageError, match="line 2: the line is longer"):
        read_questions(file)
    file.write_bytes(b" " * 100 + b"\n" + b"nonsense\n")
    with pytest.raises(UsageError, match="line 2: JSON is malformed"):
        read_questions(file)


def test_what_is_no_file_cannot_be_read(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path, "not a regular file"),
        (tmp_path / "missing", "No such file"),
        (Path("/dev/null"), "not a regular file"),
        (Path("a\0b"), "null byte"),
    ):
        with pytest.raises(UsageError, match=said):
            read_questions(path)


Form = Literal["NFC", "NFD", "NFKC", "NFKD"]

A = FoundText("a", "The ferry leaves at noon.")
B = FoundText("b", "The FERRY\n  is  blue.")


@pytest.mark.parametrize(
    ("doc_ids", "texts", "ranks"),
    [
        (("a",), (), [1]),
        (("c",), (), [None]),
        (("b", "c", "a"), (), [3, None, 1]),
        ((), ("ferry",), [1]),
        ((), ("Ferry is blue", "noon"), [3, 1]),
        (("b",), ("ferry",), [3]),
        (("c",), ("ferry",), [None]),
        (("a", "b"), ("blue", "red"), [3, None]),
    ],
)
def test_what_is_expected_is_found_at_its_first_hit(
    doc_ids: tuple[str, ...], texts: tuple[str, ...], ranks: list[int | None]
) -> None:
    assert list(Question(1, "?", doc_ids, texts).ranks([A, A, B])) == ranks


@given(st.text(min_size=1), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_forms_of_the_same_characters_are_equal(text: str, form: Form) -> None:
    other = unicodedata.normalize(form, f"x{text}")
    hit = FoundText("a", f" before {other}  after")
    assert Question(1, "?", (), (f"x{text}",)).ranks([hit]) == [1]
    if form in {"NFC", "NFD"}:
        assert Question(1, "?", (f"x{text}",)).ranks([FoundText(other, "")]) == [1]
