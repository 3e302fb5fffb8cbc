"""Copies objects of stores that fsspec reaches."""

from pathlib import Path
from typing import NamedTuple

import msgspec

from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected, RemoteUnavailable, SourceChanged
from ingestq.core.paths import object_state, path_to_text
from worker.text.content import too_large


class FetchLimits(NamedTuple):
    """Most bytes of a document, and of a copy of it on the disk."""

    max_bytes: int
    copy_bytes: int


def fetch_object(document: Document, folder: Path, limits: FetchLimits) -> Document:
    """Copy the object of ``document`` into ``folder`` unless it is too large for that. Blocks.

    Returns ``document`` as a parse process can read it; see `RemoteContents.as_file` for what is
    raised.
    """
    from ingestq.client.object_store import open_object

    assert document.url is not None, "the caller has checked it"
    copy = folder / "content"
    with open_object(document.url) as found:
        if found.size is not None and found.size > limits.max_bytes:
            raise DocumentRejected(too_large(found.size, limits.max_bytes))
        state = object_state(document, found.size, found.tag)
        if found.size is not None and found.size > limits.copy_bytes:
            return msgspec.structs.replace(document, file=state)
        size = 0
        for block in found.blocks:
            size += len(block)
            if size > limits.max_bytes:
                raise DocumentRejected(too_large(size, limits.max_bytes))
            append_to(copy, block)
        if not size:
            append_to(copy, b"")
        if found.size is not None and size != found.size:
            raise SourceChanged("the object was changed while it was read")
    return msgspec.structs.replace(document, url=None, path=path_to_text(copy), file=state)


def append_to(copy: Path, block: bytes) -> None:
    """Append to a copy. Raises `not_copied`."""
    try:
        with copy.open("ab") as file:
            file.write(block)
    except OSError as error:
        raise not_copied(copy.parent.parent, error) from error


def not_copied(folder: Path, error: OSError) -> RemoteUnavailable:
    """Return the error for a copy that could not be written: there may be space for it later."""
    return RemoteUnavailable(
        f"no copy of a remote object can be written to {folder} ({error.strerror}); free some "
        "space there, set TMPDIR to another folder, or lower INGESTQ_REMOTE_COPY_BYTES"
    )
