"""Remote sources: what a lister finds, and the addresses of those that are read object by object.

A lister yields `RemoteObject`s: the identity of each, a tag that changes whenever it is written,
and hints. A fetcher in the worker streams the bytes of one of them. Between the two travels a
document with a ``url`` and a state, so that an object whose state is indexed is never read.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from msgspec import Struct

from ingestq.core.errors import UsageError
from ingestq.core.mailboxes import MAIL_SCHEMES, WHERE_PASSWORDS_ARE, MailConfig, mailbox_url
from ingestq.core.urls import HIDDEN, SCHEME, is_url, public_url
from ingestq.core.web import DEFAULT_WEB, WebConfig, is_web, page_url

EXTRAS: Final = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "adl": "azure",
    "sftp": "sftp",
    "ssh": "sftp",
}
"""The extra that brings the package for a scheme."""
SFTP_SCHEMES: Final = frozenset({"sftp", "ssh"})
SERVERS_OF_FILES: Final = SFTP_SCHEMES | {"ftp", "smb"}
"""Schemes of which servers have folders, and names may have "?" and "#"."""
LOCAL: Final = frozenset({"file", "local"})
NO_STORES: Final = frozenset({"data", "reference"})
"""Schemes that fsspec knows, and under which there are no folders to be listed."""


@dataclass(frozen=True)
class RemoteAccess:
    """How sources other than object stores are reached: web sites, and IMAP servers.

    The packages of object stores find what they need themselves.
    """

    web: WebConfig = DEFAULT_WEB
    mail: MailConfig = field(default_factory=MailConfig)


DEFAULT_ACCESS: Final = RemoteAccess()


class RemoteObject(Struct, frozen=True):
    """An object as a lister found it.

    ``url`` identifies it, and ``name`` is the part of that below the source. The store gives it
    another ``tag`` whenever it is written; None if there is no such thing. ``size`` (bytes) and
    ``media_type`` are hints, and None if the store does not tell. ``metadata`` is to be stored with
    the document.
    """

    url: str
    name: str
    tag: str | None
    size: int | None = None
    media_type: str | None = None
    metadata: dict[str, Any] = {}


def scheme_of(url: str) -> str:
    """Return the scheme of ``url``, in lower case."""
    return url.partition("://")[0].lower()


def remote_url(text: str) -> str:
    """Return ``text``, the address of a remote folder or object, in the form that ids begin with.

    The scheme is in lower case, and no slash ends it; for a web page see
    `ingestq.core.web.page_url`. Raises UsageError, without a secret, if it is
    no such address, or holds a password.
    """
    if not is_url(text):
        hint = " without ::" if SCHEME.match(text) else ""
        raise UsageError(f"{public_url(text)}: write scheme://bucket/prefix{hint}")
    if is_web(text):
        return page_url(text)
    scheme, _, place = text.partition("://")
    scheme = scheme.lower()
    user, at, _ = place.partition("/")[0].rpartition("@")
    if at and ":" in user:
        of_store = "set it where the store's package looks for it, or in fsspec's configuration"
        raise UsageError(
            f"{scheme}://{HIDDEN}@…: a password must not be in the address, which is stored with "
            f"every chunk; {WHERE_PASSWORDS_ARE if scheme in MAIL_SCHEMES else of_store}"
        )
    if scheme in MAIL_SCHEMES:
        return mailbox_url(text)
    if scheme in LOCAL:
        raise UsageError(f"{public_url(text)} is a file on this machine; write its path")
    if scheme in NO_STORES:
        raise UsageError(f"{public_url(text)}: a {scheme} address is no folder that can be listed")
    if not place.strip("/"):
        raise UsageError(f"{scheme}://: name a bucket, such as {scheme}://bucket/prefix")
    return f"{scheme}://{place.rstrip('/')}"
