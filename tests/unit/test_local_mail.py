"""Addresses of mailboxes, and Maildirs and mboxes that are changed while they are read."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingestq.client import local_mail
from ingestq.client.local_mail import (
    Maildirs,
    Mboxes,
    maildir_folders,
    maildir_messages,
    mbox_messages,
)
from ingestq.core.errors import DocumentRejected, RemoteUnavailable, SourceChanged, UsageError
from ingestq.core.mailboxes import (
    ImapAddress,
    account_of,
    imap_address,
    imap_message,
    imap_message_name,
    local_message,
    local_url,
    message_url,
)
from ingestq.core.paths import folders_of
from ingestq.core.remote import remote_url

FROM = b"From anna@example.org Wed Mar  4 10:00:00 2026\n"
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
PRINTABLE = NAMES.filter(str.isprintable)
LINES = st.lists(
    st.sampled_from([b"From here on", b"gulls", b">From afar", b"", b"x" * 300, b"\xff\r"]),
    max_size=8,
)


@example(user="%00", levels=[], port=993)
@given(user=PRINTABLE, levels=st.lists(PRINTABLE, max_size=3), port=st.sampled_from([993, 1143]))
def test_an_address_of_imap_is_read_back(user: str, levels: list[str], port: int) -> None:
    names = tuple("INBOX" if name.upper() == "INBOX" else name for name in levels)
    address = ImapAddress("imaps", user, "mail.example.org", port, names)
    assert imap_address(str(address)) == address
    assert remote_url(str(address)) == str(address)
    assert account_of(address.account) == address.account
    message = f"{address}/{imap_message_name(7, 9)}"
    assert str(address) in folders_of(message)
    assert imap_message(message) == (address, 7, 9)


@given(folder=st.lists(NAMES, min_size=1), name=NAMES)
def test_the_address_of_a_message_is_read_back(folder: list[str], name: str) -> None:
    path = Path("/", *(part.replace("/", "_").replace("..", "_") for part in folder))
    url = local_url("mbox", path)
    assert local_message(message_url(url, name)) == (path, name)
    assert url in folders_of(message_url(url, name))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (
            "IMAPS://me@gmail.com@IMAP.gmail.com:993/inbox/",
            "imaps://me%40gmail.com@imap.gmail.com/INBOX",
        ),
        ("imap://anna@[::1]:1143", "imap://anna@[::1]:1143"),
        ("imaps://anna@host/Sent Mail", "imaps://anna@host/Sent%20Mail"),
        ("maildir:///home/anna/Maildir/", "maildir:///home/anna/Maildir"),
        ("mbox://a.mbox", f"mbox://{Path.cwd()}/a.mbox"),
    ],
)
def test_an_address_of_a_mailbox_has_one_form(text: str, url: str) -> None:
    assert remote_url(text) == url


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("imaps://anna:hunter22@host/INBOX", "set it in INGESTQ_IMAP_PASSWORDS"),
        ("imaps://host/INBOX", "there is no user in the address"),
        ("imaps://anna@host:port/INBOX", "write imaps://user@host/folder"),
        ("imaps://anna@host/a%0d%0aLOGOUT", "control characters"),
        ("imaps://anna@host/INBOX/;UIDVALIDITY=1;UID=2", "is a single message"),
        ("mbox://", "name a folder or file"),
    ],
)
def test_what_is_no_address_of_a_mailbox_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        remote_url(text)
    assert "hunter22" not in str(refused.value)


def contents_of(path: Path) -> dict[str, bytes]:
    mboxes = Mboxes()
    return {
        one.name: b"".join(block for _, _, block in mboxes.blocks(path, one.name))
        for one in mbox_messages(path)
    }


@given(
    bodies=st.lists(LINES, min_size=1, max_size=6),
    dropped=st.integers(0, 5),
    block=st.integers(1024, 1400),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_a_message_keeps_its_name_whatever_happens_to_others(
    tmp_path: Path, bodies: list[list[bytes]], dropped: int, block: int
) -> None:
    messages = [
        b"\n".join([b"Message-ID: <%d@x>" % number, b"Subject: x", b"", *lines]).rstrip(b"\r\n")
        for number, lines in enumerate(bodies)
    ]
    path = tmp_path / "a.mbox"

    def write(kept: list[bytes]) -> None:
        quoted = [one.replace(b"\nFrom ", b"\n>From ") for one in kept]
        path.write_bytes(b"\n\n".join(FROM + one for one in quoted) + b"\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_mail, "BLOCK_BYTES", block)
        write(messages)
        before = {one.name: one.digest for one in mbox_messages(path)}
        read = contents_of(path)
        assert list(before) == [f"{number}@x" for number in range(len(messages))]
        for number, one in enumerate(messages):
            assert read[f"{number}@x"] == one.replace(b"\n>From ", b"\nFrom ") + b"\n"
        write(messages[:dropped] + messages[dropped + 1 :] + [b"Message-ID: <new@x>\n\nnew"])
        after = {one.name: one.digest for one in mbox_messages(path)}
    before.pop(f"{dropped}@x", None)
    assert after.pop("new@x")
    assert after == before


def test_broken_messages_and_flags(tmp_path: Path) -> None:
    path = tmp_path / "a.mbox"
    same = b"Message-ID: <1@x>\n\nfirst\n\n"
    path.write_bytes(FROM + same + FROM + same + FROM + b"Subject: no id\n\nx\n")
    names = [one.name for one in mbox_messages(path)]
    assert names[:2] == ["1@x", "1@x;2"]
    assert contents_of(path)[names[2]] == b"Subject: no id\n\nx\n"
    digests = [one.digest for one in mbox_messages(path)]
    # A mail program writes its flags into the file.
    path.write_bytes(
        FROM + b"Status: RO\n" + same + FROM + same + FROM + b"Subject: no id\nX-Status: A\n\nx\n"
    )
    assert [one.name for one in mbox_messages(path)] == names
    assert [one.digest for one in mbox_messages(path)] == digests
    path.write_bytes(b"")
    assert list(mbox_messages(path)) == []
    path.write_bytes(b"Dear all,\n\nFrom 10:00 on.\n")
    with pytest.raises(UsageError, match="is no mbox"):
        list(mbox_messages(path))
    with pytest.raises(UsageError, match=r"there is no such mbox.*Nothing was deleted"):
        list(mbox_messages(tmp_path / "none.mbox"))


def test_an_mbox_that_is_written_while_it_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.mbox"
    content = b"\n".join(FROM + b"Message-ID: <%d@x>\n\nx\n" % number for number in range(3))
    path.write_bytes(content)
    listing = mbox_messages(path)
    next(listing)
    with path.open("ab") as file:
        file.write(b"\n" + FROM + b"Message-ID: <3@x>\n\nx\n")
    assert len(list(listing)) == 2  # the new one is found by the next listing
    assert len(list(mbox_messages(path))) == 4
    for rewritten in (content, content[:100], content * 3):
        listing = mbox_messages(path)
        next(listing)
        path.write_bytes(rewritten)
        with pytest.raises(RemoteUnavailable, match="was changed while it was read"):
            list(listing)


def test_an_mbox_that_is_written_while_a_message_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mbox"
    long = b"x" * 70 + b"\n"
    first, second = (b"Message-ID: <%d@x>\n\n" % n + long * 40_000 for n in (1, 2))
    path.write_bytes(FROM + first + b"\n" + FROM + second)
    mboxes = Mboxes()
    blocks = mboxes.blocks(path, "2@x")
    next(blocks)
    path.write_bytes(FROM + second)
    with pytest.raises(SourceChanged):
        list(blocks)
    assert b"".join(block for _, _, block in mboxes.blocks(path, "2@x")) == second
    with pytest.raises(DocumentRejected, match="the message is gone"):
        next(mboxes.blocks(path, "1@x"))
    path.unlink()
    with pytest.raises(DocumentRejected, match="the mailbox is gone"):
        next(mboxes.blocks(path, "2@x"))


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    for part in ("cur", "new", "tmp"):
        (tmp_path / part).mkdir()
    return tmp_path


def test_a_maildir_whose_files_are_renamed(maildir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (maildir / "new/1.a.host").write_bytes(b"first")
    (maildir / "cur/2.b.host:2,S").write_bytes(b"second")
    (maildir / "cur/3.c.host:2,ST").write_bytes(b"marked as deleted")
    (maildir / "tmp/4.d.host").write_bytes(b"being delivered")
    listed = maildir_messages(maildir)
    assert [one.name for one in listed] == ["1.a.host", "2.b.host"]
    maildirs = Maildirs()
    with maildirs.open(maildir, "1.a.host") as file:
        assert file.read() == b"first"
    (maildir / "new/1.a.host").rename(maildir / "cur/1.a.host:2,FS")
    assert maildir_messages(maildir) == listed
    with maildirs.open(maildir, "1.a.host") as file:
        assert file.read() == b"first"
    (maildir / "cur/1.a.host:2,FS").unlink()
    with pytest.raises(DocumentRejected, match="the message is gone"):
        maildirs.open(maildir, "1.a.host")
    (maildir / "cur/5.e.host:2,").symlink_to("/etc/hostname")
    with pytest.raises(DocumentRejected, match="cannot be read"):
        maildirs.open(maildir, "5.e.host")

    times = iter(range(100))
    monkeypatch.setattr(local_mail, "_times", lambda _: next(times))
    with pytest.raises(RemoteUnavailable, match="is changed all the time"):
        maildir_messages(maildir)


def test_a_folder_that_is_gone_before_it_is_listed_hides_no_other(
    maildir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        for part in ("cur", "new"):
            (maildir / name / part).mkdir(parents=True)
    scan = os.scandir

    def rename_once(folder: Path) -> Any:
        if folder != maildir and (maildir / "b").exists():
            (maildir / "b").rename(maildir / "moved")
        return scan(folder)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", rename_once)
        with pytest.raises(RemoteUnavailable, match=r"was changed while it was read.*Nothing was"):
            maildir_folders(maildir)
    assert [name for name, _ in maildir_folders(maildir)] == ["", "a", "c", "moved"]
    with pytest.raises(UsageError, match="is no Maildir"):
        maildir_folders(maildir / "none")
