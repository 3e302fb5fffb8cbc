"""Text files as programs of all countries leave them are read right, and found."""

import unicodedata
from pathlib import Path

import pytest

from ingestq.core.paths import guess_media_type
from tests.command import Ingestq
from worker.text.extract import extract
from worker.text.parts import ExtractedDocument

LINE = "2026-02-02 10:01:00 INFO job=00001 queue=bulk state=done ms=37\n"
KOREAN = "정기 점검은 금요일 오후 세 시에 시작합니다.\r\n"
COLOURS = "\x1b[2m2026-03-02\x1b[0m \x1b[1;31mERROR\x1b[0m: entry \x1b[35mLX-77120\x1b[0m is open\n"


def read(name: str, data: bytes) -> ExtractedDocument:
    return extract(data, guess_media_type(name))


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (KOREAN, "cp949"),
        (KOREAN * 1500, "cp949"),
        ("a" + KOREAN * 1500, "cp949"),
        ("찦차 매장 안내: 똠방각하 연극표와 펲시 음료는 뷁홀 앞에서 팝니다.\r\n", "cp949"),
        ("1. Stop the worker\r\n2. Copy the archive\r\n3. 백업 확인 후 재시작\r\n", "cp949"),
        ("会議室の鍵は受付の青い箱にあります。\r\n", "cp932"),
        ("仓库的备用钥匙放在绿色抽屉里。\r\n", "gb18030"),
        ("倉庫的備用鑰匙放在綠色抽屜裡。\r\n", "cp950"),
        ("Запасной ключ от склада лежит в зелёном ящике.\r\n", "cp1251"),
    ],
)
def test_text_of_windows_programs_is_right_without_a_warning(text: str, encoding: str) -> None:
    extracted = read("a.txt", text.encode(encoding))
    assert (extracted.text, extracted.warnings) == (text, ())


@pytest.mark.parametrize("drawn", ["\u3000" * 9, "\u3000" * 40_000, "─" * 300, "■" * 80])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("예비 열쇠는 창고의 초록 서랍에 있습니다.", "cp949"),
        ("会議室の鍵は受付の青い箱にあります。", "cp932"),
        ("仓库的备用钥匙放在绿色抽屉里。", "gb18030"),
        ("倉庫的備用鑰匙放在綠色抽屜裡。", "cp950"),
    ],
)
def test_lines_and_spaces_that_are_drawn_prove_nothing(
    drawn: str, text: str, encoding: str
) -> None:
    written = f"{drawn}{text}{drawn}\r\n"
    extracted = read("a.txt", written.encode(encoding))
    assert (extracted.text, extracted.warnings) == (written, ())


@pytest.mark.parametrize(
    ("tail", "encoding"),
    [
        ("야간 교대 메모: 삼번 냉각기에서 물이 샌다.\n", "cp949"),
        ("Notiz der Nachtschicht: Kühler drei verliert Öl, bitte prüfen.\n", "latin-1"),
        ("夜勤の記録:三号機の冷却水が漏れています。\n", "cp932"),
        ("교대 메모: 오번 냉각기는 정상이다.\n", "utf-8"),
    ],
)
def test_the_end_of_a_log_shows_its_encoding(tail: str, encoding: str) -> None:
    text = LINE * 1200 + tail * 3
    extracted = read("a.log", text.encode(encoding))
    assert (extracted.text, extracted.warnings) == (text, ())


KOREAN_LOG = "".join(f"{n}월 점검에서 {n}번 펌프의 베어링을 교체했다.\n" for n in range(1, 13))


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (KOREAN_LOG.encode()[2:], KOREAN_LOG.splitlines()[1:]),
        (KOREAN_LOG.encode()[:-3], KOREAN_LOG.splitlines()[:-1]),
        ("Öldruck größer\n".encode() * 5 + b"K\xfchler\n", ["Öldruck größer"]),
    ],
    ids=["rotated", "truncated", "Latin-1"],
)
def test_a_bad_byte_costs_one_character(data: bytes, kept: list[str]) -> None:
    extracted = read("a.log", data)
    assert set(kept) <= set(extracted.text.splitlines())
    assert extracted.text.count("\ufffd") <= 1
    assert "not valid UTF-8" in extracted.warnings[0]


def test_a_console_log_has_no_escape_sequences_and_only_the_last_progress() -> None:
    assert read("a.log", COLOURS.encode()).text == "2026-03-02 ERROR: entry LX-77120 is open\n"
    states = "".join(f"\r\x1b[K{n:3}% [{'#' * n:100}]" for n in range(0, 101, 2))
    text = read("build.log", f"Downloading{states}\n\x1b[32mFinished\x1b[0m\n".encode()).text
    assert "Finished\n" in text
    assert text.count("%") == 1


TABLE = (
    ("품번", "품명", "비고"),
    ("A-1001", "볼트", "두 줄\n이다"),
    ("A-1002", "패킹|고무", "지하"),
)


@pytest.mark.parametrize(
    ("delimiter", "encoding"),
    [(",", "cp949"), (";", "cp949"), ("\t", "utf-16"), (",", "utf-8-sig"), ("\t", "utf-8")],
)
def test_a_table_of_a_spreadsheet_program(delimiter: str, encoding: str) -> None:
    rows = (delimiter.join(f'"{cell}"' for cell in row) for row in TABLE)
    extracted = read("a.csv", "\r\n".join(rows).encode(encoding))
    assert extracted.text.splitlines() == [
        "| 품번 | 품명 | 비고 |",
        "| --- | --- | --- |",
        "| A-1001 | 볼트 | 두 줄<br>이다 |",
        "| A-1002 | 패킹\\|고무 | 지하 |",
    ]
    assert extracted.parts[0].markdown


def test_a_late_row_shows_the_encoding_of_a_table() -> None:
    head = "code,name\r\n" + "".join(f"A-{n},bolt {n}\r\n" for n in range(9000))
    text = read("a.csv", (head + "B-9,예비 부품 상자\r\n").encode("cp949")).text
    assert text.endswith("| A-8999 | bolt 8999 |\n| B-9 | 예비 부품 상자 |\n")


def test_a_long_table_keeps_its_rows_and_names_its_columns_first() -> None:
    data = "part,price\n" + "".join(f"GX-{n},{n}.50\n" for n in range(220))
    lines = read("parts.csv", data.encode()).text.splitlines()
    assert lines[:2] == ["| part | price |", "| --- | --- |"]
    assert lines[2:] == [f"| GX-{n} | {n}.50 |" for n in range(220)]


def test_json_lines_named_json_are_records() -> None:
    data = b'{"event":"start","door":"north gate"}\n{"event":"stop","door":"south gate"}\n'
    extracted = read("events.json", data)
    assert extracted.text == "event: start\ndoor: north gate\n\nevent: stop\ndoor: south gate\n"
    assert extracted.warnings == ()


def test_decomposed_text_is_composed() -> None:
    text = "수경재배 온실의 양액 농도. Die Schlüsselgröße für den Kühler.\n"
    assert read("a.txt", unicodedata.normalize("NFD", text).encode()).text == text


@pytest.mark.slow
def test_what_was_decoded_is_found(ingestq: Ingestq, tmp_path: Path) -> None:
    files = {
        "korean.txt": (KOREAN.encode("cp949"), "금요일"),
        "tail.log": ((LINE * 20 + "Notiz: Kühler drei verliert Öl\n").encode("cp1252"), "Kühler"),
        "colours.log": (COLOURS.encode(), "LX-77120"),
        "large.log": (("\n" * 600_000 + COLOURS).encode("utf-16"), "LX-77120"),
        "cut.log": (KOREAN_LOG.encode()[2:], "베어링을"),
        "table.csv": ("Artikel;Ort\r\nC-3001;Behälter\r\n".encode("cp1252"), "Behälter"),
        "events.json": (b'{"door":"north"}\n{"door":"gatehouse"}\n', "gatehouse"),
        "nfd.txt": (unicodedata.normalize("NFD", "Größe siebzehn\n").encode(), "Größe"),
    }
    folder = tmp_path / "files"
    folder.mkdir()
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    ran = ingestq("run", folder, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["documents"]["indexed"] == len(files)
    query = " ".join(word for _, word in files.values())
    hits = ingestq("search", "--sparse", "--json", "-n", "50", query).json["hits"]
    texts = {Path(hit["doc_id"]).name: hit["text"] for hit in hits}
    assert {
        name: word for name, (_, word) in files.items() if word not in texts.get(name, "")
    } == {}
