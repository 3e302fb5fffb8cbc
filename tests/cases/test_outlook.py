"""Messages that Outlook saved: what they say, and what is attached to them."""

import struct
from collections.abc import Sequence

import pytest

from ingestq.core.errors import DocumentRejected
from ingestq.core.paths import guess_media_type
from tests.cases.test_workbooks import HERE
from tests.compound_files import Storage, compound
from tests.office_files import docx, paragraph
from worker.text.config import OcrMode, ReadingConfig
from worker.text.extract import extract
from worker.text.parts import INSIDE, ExtractedDocument

NO_OCR = ReadingConfig(ocr=OcrMode.OFF, languages=("ko",))
LONG = "The slewing ring was greased. " * 200


def text(tag: str, value: str) -> dict[str, bytes]:
    return {f"__substg1.0_{tag}001F": value.encode("utf-16-le")}


def message(
    subject: str, body: str, attachments: Sequence[Storage] = (), *, attached: bool = False
) -> Storage:
    """Return the storage of a message; one that is ``attached`` has a shorter head."""
    count = len(attachments)
    head = struct.pack("<8xIIII", count, count, count, count)
    return {
        "__properties_version1.0": head if attached else head + bytes(8),
        **text("001A", "IPM.Note"),
        **text("0037", subject),
        **text("0C1A", "Mira"),
        **text("0C1F", "mira@example.org"),
        **text("5D01", "mira@example.org"),
        **text("1000", body),
        **{f"__attach_version1.0_#{i:08X}": each for i, each in enumerate(attachments)},
    }


def attachment(content: bytes | Storage, name: dict[str, bytes]) -> Storage:
    method, tag = (1, "0102") if isinstance(content, bytes) else (5, "000D")
    return {
        "__properties_version1.0": bytes(8) + struct.pack("<HHIQ", 3, 0x3705, 6, method),
        f"__substg1.0_3701{tag}": content,
        **name,
    }


def read(root: Storage) -> ExtractedDocument:
    return extract(compound(root), guess_media_type("mail.msg"), NO_OCR)


def test_attachments_are_parts_and_read_as_files_are() -> None:
    jib = message("Jib light", "The jib light flickers.", attached=True)
    extracted = read(
        message(
            "Crane papers",
            "The crane papers are attached.",
            [
                attachment(b"Grease the ring.", text("3707", "checklist.txt")),
                attachment("부품,수량\n볼트,4\n".encode("cp949"), text("3704", "별첨.csv")),
                attachment(
                    docx(paragraph("The heater is broken.")),
                    {"__substg1.0_3707001E": "난방 안내.docx".encode("cp949")},
                ),
                attachment(jib, text("3001", "Jib light")),
                attachment(LONG.encode(), text("3707", "long.txt")),
                attachment(bytes(range(256)) * 9, text("3707", "data.bin")),
            ],
        )
    )
    assert extracted.title == "Crane papers"
    parts = {part.name: part.text for part in extracted.parts}
    assert "The crane papers are attached." in parts[None]
    assert "mira@example.org" in parts[None]
    assert "Grease the ring." not in parts[None]
    assert parts["checklist.txt"] == "Grease the ring."
    assert "| 볼트 | 4 |" in parts["별첨.csv"]
    assert parts["난방 안내.docx"] == "The heater is broken."
    assert "The jib light flickers." in parts["Jib light"]
    assert parts["long.txt"] == LONG
    [warning] = extracted.warnings
    assert warning.startswith("'data.bin' was skipped: it is binary data")


def filetime(unix_seconds: int) -> int:
    return (unix_seconds + 11_644_473_600) * 10_000_000


def test_headers_and_a_body_in_html_are_read() -> None:
    sent = struct.pack("<HHIQ", 0x40, 0x39, 6, filetime(1_772_614_800))
    recipient = {
        "__properties_version1.0": bytes(8) + struct.pack("<HHIQ", 3, 0x0C15, 6, 1),
        **text("3001", "Olaf"),
        **text("39FE", "olaf@example.org"),
    }
    mail = {
        **message("Pipes", ""),
        "__properties_version1.0": struct.pack("<8xIIII8x", 1, 0, 1, 0) + sent,
        "__recip_version1.0_#00000000": recipient,
        "__substg1.0_1000001F": b"",
        "__substg1.0_10130102": "<p>The <b>Röhren</b> come.".encode(),
    }
    [part] = read(mail).parts
    for said in ("Pipes", "mira@example.org", "olaf@example.org", "2026-03-04", "The **Röhren**"):
        assert said in part.text


def test_an_attached_message_that_was_saved_first_has_its_own_attachments() -> None:
    inner = compound(
        message("Inner", "See the list.", [attachment(b"Oil.", text("3707", "list.txt"))])
    )
    extracted = read(message("Outer", "Read.", [attachment(inner, text("3707", "inner.msg"))]))
    assert [part.name for part in extracted.parts] == [
        None, "inner.msg", f"inner.msg{INSIDE}list.txt",
    ]  # fmt: skip


def test_a_damaged_message_is_rejected_for_its_reason() -> None:
    data = compound(message("Crane papers", LONG))
    with pytest.raises(DocumentRejected, match=r"damaged or was cut off|no text"):
        extract(data[:700], guess_media_type("mail.msg"), NO_OCR)
    assert (HERE / "old_workbook.xls").exists()
