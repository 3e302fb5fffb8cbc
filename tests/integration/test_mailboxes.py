"""Mailboxes: the index equals folders of a real Dovecot, Maildirs and mboxes."""

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ingestq.client.imap import BLOCK_BYTES, ImapConnections
from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected, RemoteUnavailable, UsageError
from ingestq.core.mailboxes import MailConfig, imap_message
from ingestq.core.remote import RemoteAccess
from ingestq.core.results import DocumentCounts
from producers.files.patterns import Patterns
from producers.files.walk import ScanRecord
from producers.remote.source import RemoteSource
from tests.harness import Harness
from tests.imap_server import PASSWORD, ImapServer, Mailbox, imap_server
from worker.blobs import BlobContents
from worker.remote import messages as worker_messages
from worker.remote.contents import RemoteContents

LIMIT = 100 * 1024 * 1024
BROKEN = (
    b"Subject: =?utf-9?B?!!?=\r\nFrom: =?utf-7?q?+2AA-?= <a@b>\r\n"
    b"Date: yesterday\r\nMessage-ID: <1@x>\r\n\r\n\xff\xe9t\xe9\r\n",
    b"\r\nNo headers at all, but a heron.\r\n",
)


def message(number: int, *headers: str) -> bytes:
    lines = [
        f"Subject: Note {number}",
        "From: Anna <anna@example.org>",
        "Date: Wed, 4 Mar 2026 10:00:00 +0100",
        f"Message-ID: <{number}@x>",
        *headers,
        "",
        f"A note about harbour {number}.",
        "",
    ]
    return "\r\n".join(lines).encode()


@pytest.fixture(scope="module")
async def server(dovecot: str) -> AsyncIterator[ImapServer]:
    """Dovecot for all tests of this module."""
    async with imap_server(dovecot) as server:
        yield server


@pytest.fixture
def mailbox(server: ImapServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    """An empty mailbox, whose password workers know, too."""
    mailbox = Mailbox(server, f"anna-{uuid.uuid4().hex[:8]}")
    opened: list[ImapConnections] = []

    def connections(_: MailConfig) -> ImapConnections:
        opened.append(ImapConnections(mailbox.config()))
        return opened[-1]

    monkeypatch.setattr(worker_messages, "ImapConnections", connections)
    yield mailbox
    for one in opened:
        one.close()


def by_mail(config: MailConfig) -> RemoteAccess:
    return RemoteAccess(mail=config)


def source_of(mailbox: Mailbox, folder: str = "") -> RemoteSource:
    url = f"{mailbox.url}/{folder}".rstrip("/")
    return RemoteSource(url, access=by_mail(mailbox.config()))


def read(document: Document) -> bytes:
    """Return the content of ``document``, which was fetched."""
    assert document.path is not None
    return Path(document.path).read_bytes()


async def refused(source: RemoteSource) -> str:
    """Scan ``source`` in vain; return what is said, after a look that nothing would be deleted."""
    record = ScanRecord()

    async def clock() -> int:
        return 1

    with pytest.raises((UsageError, RemoteUnavailable)) as error:
        [one async for one in source.scan(clock, record)]
    assert record.sweeps(allow_mass_delete=True) == []
    assert PASSWORD not in str(error.value)
    return str(error.value)


async def test_the_index_follows_folders_of_an_account(harness: Harness, mailbox: Mailbox) -> None:
    mailbox.put("INBOX", message(1), message(2))
    mailbox.put("Work/Reports @ 50%", message(3), *BROKEN)
    mailbox.put("Trash", message(4))
    source = replace(source_of(mailbox), patterns=Patterns((), ("Trash/",)))
    assert (await harness.scan_source(source)).documents == DocumentCounts(indexed=5)
    ids = await harness.indexed()
    assert {doc_id.rpartition("/")[0] for doc_id in ids} == {
        f"{mailbox.url}/INBOX",
        f"{mailbox.url}/Work/Reports%20%40%2050%25",
    }
    found = {payload["metadata"]["title"]: payload for payload in await harness.payloads()}
    first = found["Note 1"]
    assert first["doc_id"] == first["source"]
    assert first["metadata"] == {
        "title": "Note 1",
        "source": first["source"],
        "from": "Anna <anna@example.org>",
        "message_id": "<1@x>",
        "date": "2026-03-04T10:00:00+01:00",
    }
    assert mailbox.unseen("INBOX") == 2

    mailbox.put("INBOX", message(5))
    mailbox.expunge("INBOX", 1)
    mailbox.flag("INBOX", 2, r"\Flagged \Seen")
    mailbox.flag("Work/Reports @ 50%", 1, r"\Deleted")
    assert (await harness.scan_source(source)).documents == DocumentCounts(
        indexed=1, unchanged=3, deleted=2
    )
    inbox = replace(source_of(mailbox, "inbox"), url=f"{mailbox.url}/INBOX", checksum=True)
    assert (await harness.scan_source(inbox)).documents == DocumentCounts(unchanged=2)


async def test_patterns_name_folders_as_mail_programs_show_them(tmp_path: Path) -> None:
    for name in ("Deleted Items", "Sent @ 50%", "a;b"):
        for part in ("cur", "new"):
            (tmp_path / name / part).mkdir(parents=True)
        (tmp_path / name / "cur" / "1").write_bytes(message(1))

    async def found(include: tuple[str, ...], exclude: tuple[str, ...]) -> set[str]:
        async def clock() -> int:
            return 1

        source = RemoteSource(f"maildir://{tmp_path}", "mail", patterns=Patterns(include, exclude))
        documents = [one async for one in source.scan(clock, ScanRecord())]
        return {one.doc_id for one in documents}

    sent, semicolon = "mail/Sent%20%40%2050%25/1", "mail/a%3Bb/1"
    for name in ("Deleted Items/", "Deleted%20Items/", "Deleted*s"):
        assert await found((), (name,)) == {sent, semicolon}
    assert await found(("Sent @ 50%/", "a%3Bb"), ()) == {sent, semicolon}
    assert await found(("Sent @ 50%/",), ("Sent%20*/",)) == set()


async def test_a_folder_that_cannot_be_opened_is_named_and_may_be_excluded(
    mailbox: Mailbox,
) -> None:
    for folder in ("INBOX", "Old Stuff", "Old Stuff/Sub"):
        mailbox.put(folder, message(1))
    locked = mailbox.server.folder / "home" / mailbox.user / ".Old Stuff"
    locked.chmod(0)

    async def closed(source: RemoteSource) -> str:
        with pytest.raises(RemoteUnavailable, match="does not open the folder") as raised:
            [page async for page in source.lister.pages()]
        return str(raised.value)

    try:
        said = await closed(source_of(mailbox))
        assert said.startswith(f"{mailbox.url}/Old%20Stuff: ")
        assert "exclude it, as 'Old%20Stuff/'. Nothing was deleted" in said
        assert "exclude" not in await closed(source_of(mailbox, "Old%20Stuff"))
        for pattern in ("Old%20Stuff/", "Old Stuff/*", "Old*"):
            without = replace(source_of(mailbox), patterns=Patterns((), (pattern,)))
            [page] = [page async for page in without.lister.pages()]
            assert [one.name.partition("/")[0] for one in page] == ["INBOX"]
        # That no name of a message has is no reason to leave a folder closed.
        single = replace(source_of(mailbox), patterns=Patterns((), ("*;UID=?",)))
        await closed(single)
    finally:
        locked.chmod(0o700)


async def test_another_uid_validity_embeds_and_deletes_nothing(
    harness: Harness, mailbox: Mailbox
) -> None:
    messages = [message(number) for number in range(30)]
    mailbox.put("Archive", *messages)
    source = source_of(mailbox, "Archive")
    assert (await harness.scan_source(source)).documents == DocumentCounts(indexed=30)
    before = await harness.indexed()
    mailbox.delete("Archive")
    mailbox.put("Archive", *messages)
    done = await harness.scan_source(source)
    assert done.documents == DocumentCounts(indexed=30, deleted=30)
    assert (done.chunks.embedded, done.chunks.deleted) == (0, 30)
    after = await harness.indexed()
    assert (len(after), after & before) == (30, set())
    old = Document(doc_id="a", version=1, source="s", url=min(before))
    with pytest.raises(DocumentRejected, match="it has another UIDVALIDITY"):
        async with RemoteContents(BlobContents(), LIMIT).as_file(old):
            pass


async def test_what_is_away_deletes_nothing(
    harness: Harness, mailbox: Mailbox, server: ImapServer
) -> None:
    mailbox.put("Archive", message(1))
    source = source_of(mailbox, "Archive")
    await harness.scan_source(source)
    wrong = replace(source, access=by_mail(mailbox.config("wrong-password")))
    assert "access is denied" in (said := await refused(wrong))
    assert "INGESTQ_IMAP_PASSWORDS" in said
    assert "wrong-password" not in said
    assert "there is no password for" in await refused(
        replace(source, access=by_mail(MailConfig()))
    )
    mailbox.delete("Archive")
    assert "there is no such folder in the mailbox" in await refused(source)
    mailbox.put("Archive")
    held = await harness.scan_source(source)
    assert held.documents == DocumentCounts(rejected=1)
    assert "nothing is left in it" in held.failed[0].reason
    await server.stop()
    try:
        assert "cannot be reached" in await refused(source)
    finally:
        await server.start()
    assert len(await harness.indexed()) == 1


async def test_a_message_that_is_gone_or_too_large_is_rejected_alone(
    harness: Harness, mailbox: Mailbox, server: ImapServer
) -> None:
    large = message(2) + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * (BLOCK_BYTES // 48)
    mailbox.put("INBOX", message(1), large)
    [listed] = [page async for page in source_of(mailbox, "INBOX").lister.pages()]
    first, second = (Document(doc_id="a", version=1, source="s", url=one.url) for one in listed)
    contents = RemoteContents(BlobContents(), LIMIT)
    async with contents.as_file(second) as content:
        assert read(content) == large
    with pytest.raises(DocumentRejected, match="INGESTQ_MAX_DOCUMENT_BYTES"):
        async with RemoteContents(BlobContents(), 1000).as_file(second):
            pass
    # A server that was restarted has closed the connection that is kept open.
    await server.stop()
    with pytest.raises(RemoteUnavailable):
        async with contents.as_file(first):
            pass
    await server.start()
    async with contents.as_file(first):
        pass
    assert second.url is not None
    with closing(ImapConnections(mailbox.config())) as connections:
        blocks = connections.blocks(imap_message(second.url))
        next(blocks)
        mailbox.expunge("INBOX", 1, 2)
        with pytest.raises(DocumentRejected, match="the message is gone"):
            list(blocks)
    with pytest.raises(DocumentRejected, match="the message is gone"):
        async with contents.as_file(first):
            pass


async def test_certificates_are_verified_and_passwords_not_sent_in_plain_text(
    mailbox: Mailbox, server: ImapServer
) -> None:
    mailbox.put("INBOX", message(1))
    over_tls = RemoteSource(mailbox.tls_url, access=by_mail(mailbox.config()))
    await over_tls.check()
    unknown = replace(mailbox.config(), ca_file=None)
    for url in (mailbox.tls_url, mailbox.url):
        said = await refused(RemoteSource(url, access=by_mail(unknown)))
        assert "INGESTQ_IMAP_CA_FILE" in said
    nothing = replace(unknown, ca_file=server.folder / "none.pem")
    assert "no certificates can be read" in await refused(
        replace(over_tls, access=by_mail(nothing))
    )
    server.configure(offers_tls=False)
    await server.stop()
    await server.start()
    try:
        plain = RemoteSource(mailbox.url, access=by_mail(unknown))
        await plain.check()
        with pytest.MonkeyPatch.context() as patch:  # the same server, but on another machine
            patch.setattr("ingestq.core.mailboxes.ImapAddress.is_loopback", False)
            assert "offers no STARTTLS" in await refused(plain)
            await replace(plain, access=by_mail(replace(unknown, allow_plain=True))).check()
    finally:
        server.configure(offers_tls=True)
        await server.stop()
        await server.start()
