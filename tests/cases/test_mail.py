"""E-mail says who wrote what to whom, in any charset, and what is attached is found by its name."""

import base64
from collections.abc import Sequence
from email.message import EmailMessage
from typing import Final

import pytest

from ingestq.core.errors import DocumentRejected
from ingestq.core.paths import guess_media_type
from tests.security.test_bombs import archive
from worker.remote.messages import metadata_of
from worker.text.config import OcrMode, ReadingConfig
from worker.text.extract import extract
from worker.text.parts import INSIDE, ExtractedDocument

MAIL: Final = "message/rfc822"
NO_OCR: Final = ReadingConfig(ocr=OcrMode.OFF)
PNG: Final = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40

LETTERS: Final = {
    "euc-kr": ("난방 고장 안내", "삼층 회의실 난방이 고장났습니다. 기사 방문은 화요일입니다."),
    "ks_c_5601-1987": ("똠방각하", "펲시콜라와 찦차를 타고 온 똠방각하"),
    "iso-2022-jp": ("会議のお知らせ", "来週の火曜日に会議を開きます。"),
    "iso-2022-kr": ("회의 안내", "다음 주 화요일에 회의가 있습니다."),
    "shift_jis": ("暖房の故障", "三階の会議室の暖房が故障しました。①"),
    "gb2312": ("暖气故障", "三楼会议室的暖气坏了,镕"),
    "big5": ("暖氣故障", "三樓會議室的暖氣壞了。"),
    "koi8-r": ("Отопление", "Отопление на третьем этаже сломалось."),
    "windows-1252": ("Über Röhren", "Die Röhren kosten 4 €, “ab Lager”."),
    "iso-8859-1": ("Über Röhren", "Die Röhren kosten 4 €."),
    "utf-8": ("Über Röhren", "Die Röhren kommen am Donnerstag."),
    "utf-16": ("Über Röhren", "Die Röhren kommen am Donnerstag."),
}
CODECS: Final = {
    "iso-8859-1": "cp1252",
    "ks_c_5601-1987": "cp949",
    "shift_jis": "cp932",
    "gb2312": "gb18030",
}
"""What mailers write instead of the charset that they declare."""


def letter(subject: str = "Papers", text: str = "The papers are attached.") -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = subject
    message["From"] = "Mira <mira@example.org>"
    message["To"] = "Olaf <olaf@example.org>, yard@example.org"
    message["Cc"] = "Ida <ida@example.org>"
    message["Date"] = "Wed, 04 Mar 2026 10:00:00 +0100"
    message.set_content(text)
    return message


def read(message: EmailMessage | bytes, reading: ReadingConfig = NO_OCR) -> ExtractedDocument:
    data = message if isinstance(message, bytes) else message.as_bytes()
    return extract(data, MAIL, reading)


def names(extracted: ExtractedDocument) -> Sequence[str | None]:
    return [part.name for part in extracted.parts]


def test_headers_and_body_are_read_once() -> None:
    message = letter()
    message.add_alternative(
        "<style>p{margin:0}</style><p>The papers are <b>attached</b>.", subtype="html"
    )
    extracted = read(message)
    assert extracted.title == "Papers"
    assert extracted.text == (
        "Subject: Papers\nFrom: Mira <mira@example.org>\n"
        "To: Olaf <olaf@example.org>, yard@example.org\nCc: Ida <ida@example.org>\n"
        "Date: Wed, 04 Mar 2026 10:00:00 +0100\n\nThe papers are attached."
    )
    assert not extracted.warnings


@pytest.mark.parametrize("charset", LETTERS)
def test_declared_charsets(charset: str) -> None:
    subject, text = LETTERS[charset]
    codec = CODECS.get(charset, charset)
    word = base64.b64encode(subject.encode(codec)).decode()
    body = base64.encodebytes(text.encode(codec)).decode()
    data = (
        f"Subject: =?{charset}?B?{word}?=\r\nFrom: a@example.org\r\n"
        f"Content-Type: text/plain; charset={charset}\r\n"
        f"Content-Transfer-Encoding: base64\r\n\r\n{body}"
    )
    extracted = read(data.encode("ascii"))
    assert extracted.title == subject
    assert extracted.text.endswith(text)


@pytest.mark.parametrize("declared", ["", "us-ascii", "utf-8", "iso-8859-1", "nonsense"])
@pytest.mark.parametrize("charset", ["utf-8", "euc-kr", "iso-2022-jp"])
def test_charsets_that_are_missing_or_wrong(charset: str, declared: str) -> None:
    subject, text = LETTERS.get(charset, LETTERS["utf-8"])
    if charset == "utf-8":
        subject, text = LETTERS["euc-kr"]
    parameter = f"; charset={declared}" if declared else ""
    head = f"Content-Type: text/plain{parameter}\r\nSubject: ".encode("ascii")
    data = head + f"{subject}\r\n\r\n{text * 3}".encode(charset)
    languages = ("ja",) if charset == "iso-2022-jp" else ("ko",)
    extracted = read(data, ReadingConfig(languages=languages))
    assert extracted.text.endswith(text * 3)
    if charset != "euc-kr":  # a few bytes in a legacy charset are no evidence
        assert extracted.title == subject


def test_a_character_that_is_cut_by_encoded_words() -> None:
    raw = "난방 고장".encode("euc-kr")
    words = (base64.b64encode(half).decode() for half in (raw[:3], raw[3:]))
    subject = "\r\n ".join(f"=?euc-kr?B?{word}?=" for word in words)
    assert read(f"Subject: {subject}\r\n\r\nText".encode()).title == "난방 고장"


def test_half_a_character_is_replaced_in_headers_and_body() -> None:
    head = b"From: =?utf-7?q?+2AA-?= <a@b>\nSubject: =?utf-7?b?KzJBQS0=?=\n"
    assert metadata_of(head) == {"from": "\ufffd <a@b>"}
    found = read(head + b"Content-Type: text/plain; charset=utf-7\n\nA heron +2AA- here.\n")
    assert found.title == "\ufffd"
    assert "A heron \ufffd here." in found.parts[0].text
    assert found.parts[0].text.encode("utf-8")


def test_html_without_plain_text_becomes_markdown() -> None:
    message = letter()
    message.set_content(
        "<html><head><meta charset=euc-kr><style>p{margin:0}</style></head><body>"
        "<div style='display:none'>preview</div><p>Die Röhren kommen am <b>Donnerstag</b>.</p>"
        "<table><tr><th>Röhre</th><th>Zahl</th></tr><tr><td>DN_40</td><td>4</td></tr></table>"
        '<img src="data:image/png;base64,iVBORw0KGgoAAAANSUhEUg"></body></html>',
        subtype="html",
    )
    text = read(message).text
    assert "Die Röhren kommen am **Donnerstag**." in text
    assert "| DN_40 | 4" in text
    for noise in ("margin", "preview", "iVBOR", "charset"):
        assert noise not in text


def test_a_plain_text_that_only_says_to_read_the_html_is_not_all() -> None:
    message = letter(text="Your mail program shows no HTML.")
    message.add_alternative(
        "<p>The crane is closed on Monday, " + "and so on " * 20, subtype="html"
    )
    assert "The crane is closed" in read(message).text


def test_attachments_are_parts() -> None:
    message = letter()
    message.add_attachment("Grease the slewing ring.", filename="checklist.txt")
    message.add_attachment(
        "부품,수량\n볼트,4\n".encode("cp949"), "text", "csv", filename="별첨.csv",
        params={"charset": "ks_c_5601-1987"},
    )  # fmt: skip
    message.add_attachment(letter("Jib light", "The jib light flickers."))
    message.add_attachment(
        archive({"a/notes.txt": "The mule is shod."}), "application", "zip", filename="papers.zip"
    )
    message.add_attachment(PNG, "image", "png", filename="photo.png")
    message.add_attachment(b"", "application", "pkcs7-signature", filename="smime.p7s")
    extracted = read(message)
    assert names(extracted) == [
        None,
        "checklist.txt",
        "별첨.csv",
        "Jib light",
        f"papers.zip{INSIDE}a/notes.txt",
    ]
    attached = "Attachments: checklist.txt, 별첨.csv, Jib light, papers.zip, photo.png"
    assert attached in extracted.parts[0].text
    assert "볼트" in extracted.parts[2].text
    assert extracted.parts[3].text.endswith("The jib light flickers.")
    assert extracted.parts[4].text == "The mule is shod."
    [warning] = extracted.warnings
    assert warning.startswith("'photo.png' was skipped: ")
    assert base64.b64encode(PNG[:60]).decode() not in extracted.text


def test_a_forwarded_message_has_its_own_attachments() -> None:
    inner = letter("The crane", "See the list.")
    inner.add_attachment("Grease the ring.", filename="list.txt")
    outer = letter("Fwd: The crane", "Please read.")
    outer.add_attachment(inner)
    assert names(read(outer)) == [None, "The crane", f"The crane{INSIDE}list.txt"]


def test_a_forwarded_message_in_base64() -> None:
    inner = base64.encodebytes(letter("The crane", "See the list.").as_bytes())
    data = (
        b"Subject: Fwd\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
        b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + inner
        + b"\r\n--b--\r\n"
    )
    assert "See the list." in read(data).text


def test_pictures_in_the_text_are_no_attachments() -> None:
    message = letter()
    message.add_alternative("<p>The papers are attached. <img src='cid:logo'>", subtype="html")
    message.get_payload()[1].add_related(PNG, "image", "png", cid="<logo>")  # type: ignore[union-attr,index]
    extracted = read(message)
    assert names(extracted) == [None]
    assert not extracted.warnings
    assert "Attachments" not in extracted.text


@pytest.mark.parametrize(
    "content",
    [
        b"Content-Type: application/pkcs7-mime; smime-type=enveloped-data\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\nMIIBIjANBgkqhkiG9w0BAQ\r\n",
        b"Content-Type: multipart/encrypted; boundary=b\r\n\r\n--b\r\n"
        b"Content-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n--b\r\n"
        b"Content-Type: application/octet-stream\r\n\r\nMIIBIjANBgkqhkiG9w0BAQ\r\n--b--\r\n",
        b"Content-Type: text/plain\r\n\r\n-----BEGIN PGP MESSAGE-----\r\n\r\n"
        b"MIIBIjANBgkqhkiG9w0BAQ\r\n-----END PGP MESSAGE-----\r\n",
    ],
    ids=["S/MIME", "PGP/MIME", "PGP"],
)
def test_encrypted_messages_are_said(content: bytes) -> None:
    extracted = read(b"Subject: Secret plans\r\nFrom: a@example.org\r\n" + content)
    assert "Secret plans" in extracted.text
    assert "MIIB" not in extracted.text
    assert extracted.warnings == ("the message is encrypted, so its text cannot be read",)


@pytest.mark.parametrize("name", ["photo.eml", "photo.mbox"])
def test_a_picture_that_is_named_like_a_mail_is_rejected(name: str) -> None:
    with pytest.raises(DocumentRejected, match="it is an image"):
        extract(PNG, guess_media_type(name), NO_OCR)


def test_identifiers_are_stored_as_written() -> None:
    text = "Set max_document_bytes to 900.\nThe *nightly* of C# has [rel-7], List<Berth> and ~12."
    assert read(letter(text=text)).text.endswith(text)


def test_messages_of_a_mailbox_are_parts() -> None:
    second = letter("Second of two", "The davit is painted green.\n\n>From here on it is grey.")
    second.add_attachment("Grease the ring.", filename="list.txt")
    mailbox = (
        b"From mira@example.org Wed Mar  4 10:00:00 2026\n"
        b"From: mira@example.org\nSubject: First of two\n\nThe winch is oiled.\n"
        b"From now on it turns.\n\n"
        b"From olaf@example.org Thu Mar  5 10:00:00 2026\n" + second.as_bytes()
    )
    for media_type in (guess_media_type("two.mbox"), None):
        extracted = extract(mailbox, media_type)
        assert names(extracted) == [
            "message 1: First of two",
            "message 2: Second of two",
            f"message 2: Second of two{INSIDE}list.txt",
        ]
        assert extracted.parts[0].text.endswith("The winch is oiled.\nFrom now on it turns.")
        assert extracted.parts[1].text.endswith("\nFrom here on it is grey.")


def test_a_web_archive_is_a_page() -> None:
    data = (
        b"From: <Saved by Blink>\r\nSubject: Tides\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/related; type="text/html"; boundary=b\r\n\r\n--b\r\n'
        b"Content-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n"
        b"Content-Location: https://example.org/\r\n\r\n<p>High water at n=69ne.\r\n--b\r\n"
        b"Content-Type: text/css\r\nContent-Location: https://example.org/a.css\r\n\r\n"
        b"p { margin: 0 }\r\n--b\r\nContent-Type: image/png\r\n"
        b"Content-Transfer-Encoding: base64\r\n"
        b"Content-Location: https://example.org/a.png\r\n\r\niVBORw0KGgo=\r\n--b--\r\n"
    )
    extracted = extract(data, guess_media_type("tides.mhtml"), NO_OCR)
    assert extracted.title == "Tides"
    assert extracted.text.endswith("High water at nine.")
    assert not extracted.warnings


def test_mail_in_mail_is_read_up_to_a_depth() -> None:
    message = letter("level 0", "The innermost text.")
    for level in range(1, 12):
        outer = letter(f"level {level}", "Forwarded.")
        outer.add_attachment(message)
        message = outer
    extracted = read(message)
    assert extracted.parts[-1].name is not None
    assert extracted.parts[-1].name.count(INSIDE) == 7
    assert "was skipped: it is inside more than 8 others" in extracted.warnings[0]
