"""The blob store: content that is too large for the queue waits beside it.

A job refers to its blobs by name. They are deleted once the outcome of the job is in Redis.
"""

from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

from ingestq.broker.blobs.store import BlobStore
from ingestq.core.errors import UsageError
from ingestq.core.urls import public_url


def open_blob_store(url: str) -> BlobStore:
    """Return the blob store at ``url``, the path of a folder or a URL for fsspec. Does no I/O.

    Raises UsageError if other processes could not see what is put there, or if fsspec is missing.
    """
    protocol, separator, place = url.partition("://")
    if not separator or protocol == "file":
        from ingestq.broker.blobs.local import LocalBlobStore

        return LocalBlobStore(Path(unquote(place) if separator else url))
    if "memory" in protocol.split("::"):
        raise UsageError(
            f"INGESTQ_BLOB_URL is {public_url(url)!r}, which other processes cannot see; set it "
            "to a folder or a store that producers and workers share, such as s3://BUCKET/PREFIX"
        )
    if find_spec("fsspec") is None:
        raise UsageError(
            f"INGESTQ_BLOB_URL {public_url(url)!r} needs the package fsspec, which is not "
            "installed; run: pip install 'ingestq[blobs]'"
        )
    from ingestq.broker.blobs.remote import RemoteBlobStore

    return RemoteBlobStore(url)
