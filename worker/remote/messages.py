"""Copies messages of mailboxes, and says of each from whom and when it is."""

import os
from collections.abc import Generator
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from ingestq.client.imap import ImapConnections
from ingestq.client.local_mail import Maildirs, Mboxes
from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected, UsageError
from ingestq.core.mailboxes import MAILDIR, MBOX, MailConfig, imap_message, local_message
from ingestq.core.paths import object_state, path_to_text
from ingestq.core.remote import scheme_of
from worker.remote.objects import FetchLimits, append_to
from worker.text.content import too_large
from worker.text.formats.mail import headers_of

BLOCK_BYTES: Final = 1024 * 1024
HEAD_BYTES: Final = 64 * 1024
MAX_CHARACTERS: Final = 1000
"""Of a header in the metadata: some hundred recipients need more, and few ask for them."""
HEADERS: Final = ("From", "To", "Message-ID")


class Messages:
    """Fetches messages; parse processes need no access to mailboxes."""

    def __init__(self, config: MailConfig) -> None:
        self._connections = ImapConnections(config)
        self._maildirs = Maildirs()
        self._mboxes = Mboxes()

    def fetch(self, document: Document, folder: Path, limits: FetchLimits) -> Document:
        """Copy the message of ``document`` into ``folder``. Blocks.

        The document that is returned has the headers of the message in its metadata. See
        `RemoteContents.as_file` for what is raised.
        """
        assert document.url is not None, "the caller has checked it"
        copy = folder / "content"
        head, size, state = b"", 0, document.file
        with closing(self._blocks(document.url)) as blocks:
            for told, tag, block in blocks:
                size += len(block)
                if max(size, told) > limits.max_bytes:
                    raise DocumentRejected(too_large(max(size, told), limits.max_bytes))
                state = state or object_state(document, told, tag)
                head += block[: HEAD_BYTES - len(head)]
                append_to(copy, block)
        if not size:
            append_to(copy, b"")
        metadata = {**metadata_of(head), **document.metadata}
        return msgspec.structs.replace(
            document, url=None, path=path_to_text(copy), metadata=metadata, file=state
        )

    def _blocks(self, url: str) -> Generator[tuple[int, str, bytes], None, None]:
        """Yield the message block by block, each with the size and the tag that listers tell."""
        scheme = scheme_of(url)
        if scheme == MBOX:
            yield from self._mboxes.blocks(*local_message(url))
        elif scheme == MAILDIR:
            with self._maildirs.open(*local_message(url)) as file:
                status = os.fstat(file.fileno())
                while block := file.read(BLOCK_BYTES):
                    yield status.st_size, str(status.st_mtime_ns), block
        else:
            try:
                message = imap_message(url)
            except UsageError as error:
                raise DocumentRejected(str(error)) from error
            for part in self._connections.blocks(message):
                yield part.size, f"{message.uid_validity}.{message.uid}", part.data


def metadata_of(head: bytes) -> dict[str, Any]:
    """Return what the headers in ``head`` say, as far as they are there and can be read.

    The date is in ISO 8601.
    """
    found = headers_of(head, (*HEADERS, "Date"))
    metadata: dict[str, Any] = {
        name.lower().replace("-", "_"): found[name][:MAX_CHARACTERS]
        for name in HEADERS
        if found[name]
    }
    with suppress(ValueError, TypeError, IndexError, OverflowError):  # it has none, or a wrong one
        metadata["date"] = parsedate_to_datetime(found["Date"]).isoformat()
    return metadata
