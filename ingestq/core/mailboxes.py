"""Addresses of mailboxes: ``imaps://user@host/folder``, ``maildir:///folder``, ``mbox:///file``.

A folder has its subfolders in it, as it has on a disk. The address of a message begins with that of
its folder and ends with a name: of IMAP the UIDVALIDITY and the UID (RFC 5092), of a Maildir the
unique name of the file without its flags, of an mbox the Message-ID.
"""

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from ingestq.core.errors import UsageError

IMAP: Final = "imap"
IMAPS: Final = "imaps"
MAILDIR: Final = "maildir"
MBOX: Final = "mbox"
PORTS: Final = {IMAP: 143, IMAPS: 993}
LOCAL_MAIL: Final = frozenset({MAILDIR, MBOX})
MAIL_SCHEMES: Final = LOCAL_MAIL | PORTS.keys()
MESSAGE_TYPE: Final = "message/rfc822"
INBOX: Final = "INBOX"
"""The only name of a folder whose case does not matter (RFC 3501, section 5.1)."""
RESERVED: Final = re.compile(r"[%;?#*@/\\\x00-\x20\x7f\udc80-\udcff]|^\.{1,2}$")
"""What a name must not have in an address; all else stays readable."""
UID: Final = re.compile(r"(.+)/;UIDVALIDITY=(\d{1,10});UID=(\d{1,10})")
WHERE_PASSWORDS_ARE: Final = "set it in INGESTQ_IMAP_PASSWORDS"


@dataclass(frozen=True)
class MailConfig:
    """How IMAP servers are reached.

    ``passwords`` are those of accounts, by `account_of`. ``ca_file`` has certificates to trust, in
    place of those of the system. ``allow_plain`` allows servers that are not on this machine and
    offer no TLS.
    """

    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_file: Path | None = None
    allow_plain: bool = False


class ImapAddress(NamedTuple):
    """A folder of an account of IMAP; without ``levels``, all folders of it."""

    scheme: str
    user: str
    host: str
    port: int
    levels: tuple[str, ...]

    @property
    def account(self) -> str:
        """The account, as `account_of` writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port in PORTS.values() else f":{self.port}"
        return f"{self.user.replace('%', '%25')}@{host}{port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, whatever a name server says."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def root(self) -> str:
        """The address of the account."""
        _, at, place = self.account.rpartition("@")
        return f"{self.scheme}://{encoded(self.user).replace(':', '%3A')}{at}{place}"

    def __str__(self) -> str:
        return "/".join((self.root, *map(encoded, self.levels)))


class ImapMessage(NamedTuple):
    """A message: UIDs identify it in its folder for as long as that has this UIDVALIDITY."""

    folder: ImapAddress
    uid_validity: int
    uid: int


def encoded(name: str) -> str:
    """Return ``name`` as a part of an address."""
    return RESERVED.sub(_percent, name)


def decoded(part: str) -> str:
    """Return the name that `encoded` wrote as ``part``."""
    return unquote(part, errors="surrogateescape")


def _percent(found: re.Match[str]) -> str:
    raw = found[0].encode(errors="surrogateescape")
    return "".join(f"%{byte:02X}" for byte in raw)


def account_of(text: str) -> str:
    """Return an account, written as ``user@host`` or ``user@host:port``, in its only form.

    The user may have an ``@`` in it, also as ``%40``, and a ``%`` as ``%25``. Raises ValueError if
    ``text`` is none.
    """
    user, at, place = text.rpartition("@")
    parts = urlsplit(f"{IMAPS}://{place}")
    if not (user and at and parts.hostname) or parts.path or parts.query or parts.fragment:
        raise ValueError("write an account as user@host, or user@host:port")
    port = parts.port if parts.port is not None else PORTS[IMAPS]
    return ImapAddress(IMAPS, decoded(user), parts.hostname, port, ()).account


def mailbox_url(url: str) -> str:
    """Return ``url``, the address of a mailbox without a password, in its only form.

    Raises UsageError if it is none.
    """
    scheme, _, place = url.partition("://")
    if scheme.lower() in LOCAL_MAIL:
        if not place.strip("/"):
            raise UsageError(
                f"{scheme}://: name a folder or file, such as {scheme}:///home/me/mail"
            )
        return local_url(scheme.lower(), Path(decoded(place)))
    if UID.fullmatch(url):
        raise UsageError(f"{url} is a single message; name its folder")
    return str(imap_address(url))


def local_url(scheme: str, path: Path) -> str:
    """Return the address of the mailbox at ``path``. Raises UsageError if "~user" is unknown."""
    try:
        absolute = os.path.abspath(path.expanduser())  # noqa: PTH100 - resolve() would replace links
    except RuntimeError as error:
        raise UsageError(f"{scheme}://{path}: {error}") from error
    return f"{scheme}://" + "/".join(map(encoded, absolute.split("/")))


def local_path(url: str) -> Path:
    """Return the path that `local_url` wrote as ``url``."""
    return Path(decoded(url.partition("://")[2]))


def message_url(folder: str, name: str) -> str:
    """Return the address of the message called ``name`` in ``folder``, which is an address."""
    return f"{folder}/{encoded(name)}"


def local_message(url: str) -> tuple[Path, str]:
    """Return the folder or file of a message on this machine, and the name of the message."""
    folder, _, name = url.rpartition("/")
    return local_path(folder), decoded(name)


def imap_address(url: str) -> ImapAddress:
    """Return the address that ``url`` is. Raises UsageError if it is none."""
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    place, _, folder = rest.partition("/")
    user, _, host = place.rpartition("@")
    form = f"write {scheme}://user@host/folder"
    try:
        parts = urlsplit(f"{scheme}://{host}")
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{scheme}://{host}: {error}; {form}") from error
    if not user or not parts.hostname:
        raise UsageError(f"{scheme}://{host}: there is no user in the address; {form}")
    levels = [decoded(part) for part in folder.split("/") if part]
    if levels and levels[0].upper() == INBOX:
        levels[0] = INBOX
    if any(not char.isprintable() for char in f"{decoded(user)}{''.join(levels)}"):
        raise UsageError(f"{scheme}://{host}: there are control characters in the address; {form}")
    port = PORTS[scheme] if port is None else port
    return ImapAddress(scheme, decoded(user), parts.hostname, port, tuple(levels))


def imap_message_name(uid_validity: int, uid: int) -> str:
    """Return the name of a message in the address of its folder."""
    return f";UIDVALIDITY={uid_validity};UID={uid}"


def imap_message(url: str) -> ImapMessage:
    """Return the message whose address ``url`` is. Raises UsageError if it is none."""
    found = UID.fullmatch(url)
    if found is None:
        raise UsageError("it is no address of a message")
    return ImapMessage(imap_address(found[1]), int(found[2]), int(found[3]))


def levels_below(levels: Sequence[str], root: Sequence[str]) -> str:
    """Return the part of an address of a folder that is below the folder ``root``."""
    return "/".join(map(encoded, levels[len(root) :]))
