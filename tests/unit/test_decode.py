"""Text in any encoding is right, or refused, or has a warning: never mojibake without a word."""

import unicodedata
from functools import cache

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from ingestq.core.errors import DocumentRejected
from tests.sentences import ENCODINGS, SENTENCES
from worker.text.decoding.cleaning import clean
from worker.text.decoding.decode import BINARY, decode

UNICODE = ("utf-8", "utf-8-sig", "utf-16", "utf-32")
ANY = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=150)
MANY = settings(ANY, max_examples=2_500)
BMP = range(0xA0, 0x10000)


@cache
def repertoire(encoding: str) -> str:
    """Return the letters, signs and symbols that ``encoding`` has beyond ASCII, in two bytes."""
    encoded = [(chr(code), chr(code).encode(encoding, errors="ignore")) for code in BMP]
    return "".join(c for c, data in encoded if 0 < len(data) < 3 and c.isprintable())


@st.composite
def texts(draw: st.DrawFn, encoding: str, language: str) -> str:
    """Draw a text of pieces of a sentence, and up to as many odd words."""
    sentence = SENTENCES[language]
    starts = st.integers(0, len(sentence) - 2)
    lengths = st.integers(1, 40)
    piece = st.tuples(starts, lengths).map(lambda at: sentence[at[0] : at[0] + at[1]])
    odd = (
        st.just("") | st.text(repertoire(encoding), max_size=3) | st.sampled_from(["\n", "X7", "—"])
    )
    pairs = draw(st.lists(st.tuples(piece, odd), min_size=1, max_size=12))
    text = " ".join(word for pair in pairs for word in pair if word)
    return text.encode(encoding, errors="ignore").decode(encoding)


@st.composite
def legacy(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """Draw a text, its language, and its bytes in a legacy encoding, which are not UTF-8."""
    encoding = draw(st.sampled_from(sorted(ENCODINGS)))
    language = draw(st.sampled_from(ENCODINGS[encoding]))
    text = draw(texts(encoding, language))
    data = text.encode(encoding)
    assume(not is_utf_8(data))
    return text, language, data


def is_utf_8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_honest(data: bytes, text: str, languages: tuple[str, ...]) -> bool:
    """Return True if ``data`` is decoded right, or refused, or has a warning."""
    try:
        decoded = decode(data, languages)
    except DocumentRejected:
        return True
    return bool(decoded.warnings) or decoded.text == clean(text)


@ANY
@given(drawn=legacy(), hint=st.booleans())
@example(
    drawn=("Zawó Z Ť Zawó Ť Z ßŤ", "pl", b"Zaw\xf3 Z \xab Zaw\xf3 \xab Z \xdf\xab"), hint=False
)
def test_legacy_text_is_right_or_refused_or_has_a_warning(
    drawn: tuple[str, str, bytes], hint: bool
) -> None:
    text, language, data = drawn
    assert is_honest(data, text, (language[:2],) if hint else ())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@MANY
@given(drawn=legacy(), hint=st.booleans())
def test_much_legacy_text_is_right_or_refused_or_has_a_warning(
    drawn: tuple[str, str, bytes], hint: bool
) -> None:
    text, language, data = drawn
    assert is_honest(data, text, (language[:2],) if hint else ())


@pytest.mark.parametrize(
    ("encoding", "language"),
    [(encoding, language) for encoding, languages in ENCODINGS.items() for language in languages],
)
@pytest.mark.parametrize("hint", [False, True])
def test_two_sentences_are_right(encoding: str, language: str, hint: bool) -> None:
    text = SENTENCES[language].encode(encoding, errors="ignore").decode(encoding)
    assert decode(text.encode(encoding), (language[:2],) if hint else ()).text == clean(text)


@ANY
@given(drawn=legacy(), encoding=st.sampled_from([*UNICODE, "iso2022_jp_ext"]))
def test_unicode_is_right(drawn: tuple[str, str, bytes], encoding: str) -> None:
    text = drawn[0].encode(encoding, errors="ignore").decode(encoding)
    decoded = decode(text.encode(encoding))
    assert decoded.text == clean(text)
    assert not decoded.warnings


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("language", SENTENCES)
def test_utf_16_needs_no_byte_order_mark(language: str, encoding: str) -> None:
    text = f"{SENTENCES[language]}\nid 7\n"
    decoded = decode(text.encode(encoding))
    assert (decoded.text, decoded.warnings) == (text, ())


@pytest.mark.parametrize("language", ["ko", "ja", "zh-Hans", "de", "ru"])
@pytest.mark.parametrize("cut", range(1, 8))
def test_utf_8_that_was_cut_stays_utf_8(language: str, cut: int) -> None:
    data = SENTENCES[language].encode() * 3
    for part in (data[cut:], data[:-cut], data[: 60 + cut] + b"\xfc" + data[60 + cut :]):
        decoded = decode(part)
        expected = part.decode(errors="replace")
        assert decoded.text.replace("\ufffd", "") == expected.replace("\ufffd", "")
        assert decoded.text.count("\ufffd") <= 2
        assert ("not valid UTF-8" in "".join(decoded.warnings)) == (not is_utf_8(part))


@pytest.mark.parametrize("ascii_bytes", [0, 70_000, 3_000_000])
@pytest.mark.parametrize("language", ["ko", "ja", "de", "ru"])
def test_the_whole_text_decides(language: str, ascii_bytes: int) -> None:
    encoding = {"ko": "cp949", "ja": "cp932", "de": "cp1252", "ru": "cp1251"}[language]
    head = "2026-02-02 10:01:00 INFO state=done\n" * (ascii_bytes // 36)
    for shift in ("", "a"):
        text = f"{head}{shift}{SENTENCES[language]}\n"
        assert decode(text.encode(encoding, "ignore")).text == clean(
            text.encode(encoding, "ignore").decode(encoding)
        )


@pytest.mark.timeout(60)
@pytest.mark.parametrize("between", ['{"a": 1}, ', "x" * 10])
def test_the_end_of_a_long_line_counts(between: str) -> None:
    text = between * 100_000 + SENTENCES["ko"] + between * 100_000 + SENTENCES["ko"]
    assert decode(text.encode("cp949")).text == text


def test_no_sample_cuts_a_character() -> None:
    sentence = SENTENCES["zh-Hans"]
    for shift in range(5):
        text = "a" * shift + sentence * 2000  # a single line
        assert decode(text.encode("gb18030")).text == text


@pytest.mark.parametrize(
    "head",
    [
        '<?xml version="1.0" encoding="euc-kr"?>\n<a>',
        "<meta charset=euc-kr><p>",
        '<meta http-equiv="Content-Type" content="text/html; charset=KS_C_5601-1987">',
        "#!/usr/bin/python\n# -*- coding: euc-kr -*-\n# ",
        '@charset "euc-kr";\n/* ',
    ],
)
def test_a_declared_encoding_is_believed(head: str) -> None:
    text = f"{head}밂"  # alone, it could be anything
    decoded = decode(text.encode("cp949"))
    assert (decoded.text, decoded.warnings) == (text, ())


@pytest.mark.parametrize("name", ["idna", "unicode_escape", "rot13", "zlib", "no-such", "utf-7"])
def test_a_declared_name_runs_no_other_codec(name: str) -> None:
    text = f"# coding: {name}\n{SENTENCES['ko']}"
    assert decode(text.encode("cp949")).text == text


def test_a_wrong_declaration_of_latin_1_is_not_believed() -> None:
    text = f'<?xml version="1.0" encoding="iso-8859-1"?><a>{SENTENCES["ko"]}</a>'
    assert decode(text.encode("cp949")).text == text
    assert decode(text.encode()).text == text


@pytest.mark.parametrize(
    ("language", "word", "encoding"),
    [
        ("de", "Öl", "cp1252"),
        ("el", "κλειδί", "cp1253"),
        ("ja", "点検", "cp932"),
        ("ko", "점검", "cp949"),
        ("pl", "źródło", "cp1250"),
        ("ru", "день", "cp1251"),
        ("tr", "ışık", "cp1254"),
        ("zh", "检查", "gb18030"),
    ],
)
def test_one_word_is_right_if_its_language_is_named(
    language: str, word: str, encoding: str
) -> None:
    assert decode(word.encode(encoding), (language,)).text == word


def test_what_cannot_be_told_is_refused_with_advice() -> None:
    with pytest.raises(DocumentRejected, match=r"save it as UTF-8.*INGESTQ_LANGUAGES"):
        decode(b"\xff \xfe\xa4 \xb6\xdf\xa6 \xd7\xff")


@pytest.mark.parametrize("at", [20, 21])
def test_damage_in_a_legacy_text_is_said(at: int) -> None:
    data = SENTENCES["ko"].encode("cp949")
    decoded = decode(data[:at] + b"\xff" + data[at:])
    assert decoded.text.startswith("창고 열쇠는 창가에")
    assert decoded.text.endswith(SENTENCES["ko"][20:])
    assert "not valid CP949" in "".join(decoded.warnings)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        ("\x1b[1;31mERROR\x1b[0m in \x1b[38;5;9mred\x1b[m\n", "ERROR in red\n"),
        ("\x1b]0;title\x07ok \x1b]8;;https://a.b\x1b\\link\x1b]8;;\x1b\\\n", "ok link\n"),
        ("\x1b(B\x0f\x1b[?25lquiet\x1b[?25h\x1b[2K\n", "quiet\n"),
        ("10%\r20%\r100%\n", "100%\n"),
        ("get 1 of 9\rget 2 of 9\rget 9 of 9, done\r\nnext\r\n", "get 9 of 9, done\r\nnext\r\n"),
        ("one line\ranother line\rlast", "one line\ranother line\rlast"),
        ("1,2\r3,4\r5,6\r", "1,2\r3,4\r5,6\r"),
        ("apples\rpears\n", "apples\rpears\n"),
        ("N\x08NA\x08AM\x08ME\x08E _\x08o_\x08f\n", "NAME of\n"),
        ("first\0\0\0second\x01 and" + " on" * 20, "first second  and" + " on" * 20),
        ("G\u0308a \ufeffu\u0308ber ᄒ\u1161\u11ab", "G\u0308a über 한"),
        ("a\r\nb\x0bc\x0cd\te\x85f\n", "a\r\nb\x0bc\x0cd\te\x85f\n"),
        ("half an escape \x1b", "half an escape  "),
    ],
)
def test_text_is_what_a_reader_sees(shown: str, text: str) -> None:
    assert decode(shown.encode()).text == text


def test_padding_is_no_reason_to_refuse_a_log() -> None:
    decoded = decode(b"one line\n" + b"\0" * 10_000 + b"another line\n")
    assert decoded.text.split() == ["one", "line", "another", "line"]


@pytest.mark.parametrize("data", [bytes(range(256)), b"\x7fELF\x02\x01\x01\0\0\x03\0>\0\x01" * 9])
def test_a_binary_file_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentRejected, match=BINARY):
        decode(data)


@ANY
@given(text=st.text())
def test_text_in_utf_8_loses_only_controls(text: str) -> None:
    plain = "".join(c for c in text if unicodedata.category(c)[0] != "C" or c in "\t\n")
    assert decode(plain.encode()).text == unicodedata.normalize("NFC", plain)
