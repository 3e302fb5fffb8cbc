"""Reads mailboxes: files of messages, each after a line that begins with ``From ``."""

import re
from collections.abc import Iterator
from functools import partial
from typing import Final

from worker.text.config import ReadingConfig
from worker.text.formats.mail import read_mail, subject_of
from worker.text.members import Members
from worker.text.parts import ExtractedDocument

MESSAGE: Final = re.compile(
    rb"^From [^\r\n]{0,200}\d\d:\d\d[^\r\n]{0,100}\r?\n(?=[!-9;-~]{1,80}:)", re.MULTILINE
)
"""The line before a message, with a time, and the beginning of a header: a sentence in a letter
that begins with this word has neither."""
QUOTED: Final = re.compile(rb"^>(>*From )", re.MULTILINE)
"""A line of a letter that was quoted, because it looked like one before a message."""


def read_mbox(data: bytes, reading: ReadingConfig, members: Members) -> ExtractedDocument:
    """Read all messages of the mailbox ``data``, with their attachments."""
    for number, message in enumerate(_messages(data), 1):
        if members.exceeded:
            members.stop(members.budget.exceeded)
            break
        subject = subject_of(message, reading.languages)
        name = f"message {number}: {subject}" if subject else f"message {number}"
        read = partial(read_mail, message, reading, members.inside())
        members.add(name, read, len(message))
    return members.document()


def _messages(data: bytes) -> Iterator[bytes]:
    starts = [found.span() for found in MESSAGE.finditer(data)] or [(0, 0)]
    ends = [begin for begin, _ in starts[1:]] + [len(data)]
    for (_, start), end in zip(starts, ends, strict=True):
        yield QUOTED.sub(rb"\1", data[start:end])
