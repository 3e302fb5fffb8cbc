"""API tokens: how one is written, what of it is stored, and what its owner may do.

A token is ``ingestq_ID_SECRET``. Only the SHA-256 of the whole is stored: the secret has 256 random
bits, so nobody can find it from its hash, and a slow hash would add nothing.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

from ingestq.core.documents import check_collection
from ingestq.core.errors import NotPermitted
from ingestq.core.limits import check_text
from ingestq.core.results import utc_time

ID_BYTES: Final = 8
SECRET_BYTES: Final = 32
TOKEN: Final = re.compile(rb"ingestq_(?P<id>[0-9a-f]{16})_[A-Za-z0-9_-]{43}")
MAX_PER_MINUTE: Final = 1_000_000
MAX_EXPIRY_DAYS: Final = 36_500
NAME_CHARACTERS: Final = 100


class Right(StrEnum):
    """What a token may be used for. ``admin`` includes the others."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@dataclass(frozen=True)
class Principal:
    """Who sends a request, and what they may do.

    Only documents of ``tenant`` and of ``collections`` exist for them; None stands for all.
    ``token_id`` is None for the owner of INGESTQ_API_TOKEN, and for everybody where no token is
    needed.
    """

    name: str
    rights: frozenset[Right]
    tenant: str | None = None
    collections: frozenset[str] | None = None
    token_id: str | None = None

    @property
    def is_limited(self) -> bool:
        """Whether there are tenants or collections that do not exist for them."""
        return self.tenant is not None or self.collections is not None

    def may(self, right: Right) -> bool:
        """Return whether they have ``right``."""
        return right in self.rights

    def sees(self, tenant: str | None, collection: str | None) -> bool:
        """Return whether documents of this tenant and collection exist for them.

        None is one that is not known.
        """
        return self.tenant in (None, tenant) and (
            self.collections is None or collection in self.collections
        )

    def tenant_of(self, asked: str | None) -> str | None:
        """Return the tenant of a request that names ``asked``, or their own if that is None.

        None means all. Raises NotPermitted if it is another one.
        """
        if self.tenant is None or asked is None:
            return asked if self.tenant is None else self.tenant
        if asked != self.tenant:
            raise NotPermitted(
                f"this token is for the tenant {self.tenant!r}; leave the tenant out, or name that"
            )
        return asked

    def check_collection(self, name: str) -> None:
        """Raise NotPermitted if documents of the collection do not exist for them."""
        if self.collections is not None and name not in self.collections:
            allowed = ", ".join(sorted(self.collections))
            raise NotPermitted(f"collection: this token is for {allowed} only, not for {name!r}")


UNLIMITED: Final = Principal("administrator", frozenset(Right))
"""The owner of INGESTQ_API_TOKEN, and everybody on this machine where no token is needed."""


@dataclass(frozen=True)
class TokenGrant:
    """What a new token is for. Raises ValueError that says what is wrong.

    ``expires_days`` is how long it is valid, ``per_minute`` how many requests it may send; None is
    no limit. Without ``rights`` it may read.
    """

    name: str
    tenant: str | None = None
    rights: frozenset[Right] = frozenset({Right.READ})
    collections: frozenset[str] | None = None
    expires_days: float | None = None
    per_minute: int | None = None

    def __post_init__(self) -> None:
        if not self.name.strip() or len(self.name) > NAME_CHARACTERS or not self.name.isprintable():
            raise ValueError(
                f"the name of a token is a text of up to {NAME_CHARACTERS} characters in one line"
            )
        if self.tenant is not None:
            check_text("tenant", self.tenant)
        for collection in self.collections or ():
            check_collection(collection)
        if Right.ADMIN in self.rights and (self.tenant, self.collections) != (None, None):
            raise ValueError(
                "the right admin is for the whole server, such as its metrics; leave it out for a "
                "token of one tenant or of some collections"
            )
        if self.expires_days is not None and not 0 < self.expires_days <= MAX_EXPIRY_DAYS:
            raise ValueError(f"a token expires within {MAX_EXPIRY_DAYS} days, after more than 0")
        if self.per_minute is not None and not 1 <= self.per_minute <= MAX_PER_MINUTE:
            raise ValueError(f"a token may send from 1 to {MAX_PER_MINUTE} requests a minute")


@dataclass(frozen=True)
class TokenInfo:
    """What is known of a token. Times are Unix times in ms; None is never."""

    id: str
    name: str
    tenant: str | None
    rights: Sequence[Right]
    collections: Sequence[str] | None
    made_ms: int
    expires_ms: int | None
    per_minute: int | None
    used_ms: int | None
    is_expired: bool = False

    @classmethod
    def of(cls, token_id: str, fields: dict[bytes, bytes], now_ms: int) -> Self:
        """Return the token that a hash in Redis holds."""
        text = {name.decode(): value.decode() for name, value in fields.items()}
        expires_ms = _number(text["expires"])
        return cls(
            id=token_id,
            name=text["name"],
            tenant=text.get("tenant"),
            rights=[right for right in Right if right in text["rights"].split()],
            collections=text["collections"].split() or None,
            made_ms=int(text["made"]),
            expires_ms=expires_ms,
            per_minute=_number(text["per_minute"]),
            used_ms=_number(text.get("used", "")),
            is_expired=expires_ms is not None and now_ms >= expires_ms,
        )

    @property
    def principal(self) -> Principal:
        """What the owner of the token may do."""
        rights = frozenset(Right) if Right.ADMIN in self.rights else frozenset(self.rights)
        collections = None if self.collections is None else frozenset(self.collections)
        return Principal(self.name, rights, self.tenant, collections, self.id)

    def as_json(self) -> dict[str, Any]:
        """Return what is known as JSON, on whose keys other programs rely."""
        return {
            "name": self.name,
            "id": self.id,
            "tenant": self.tenant,
            "rights": [right.value for right in self.rights],
            "collections": None if self.collections is None else list(self.collections),
            "per_minute": self.per_minute,
            "made": utc_time(self.made_ms),
            "expires": None if self.expires_ms is None else utc_time(self.expires_ms),
            "expired": self.is_expired,
            "last_used": None if self.used_ms is None else utc_time(self.used_ms),
        }


def _number(text: str) -> int | None:
    return int(text) if text else None


def new_token() -> tuple[str, str]:
    """Return the id of a new token, and the token."""
    token_id = secrets.token_hex(ID_BYTES)
    return token_id, f"ingestq_{token_id}_{secrets.token_urlsafe(SECRET_BYTES)}"


def token_id_of(sent: bytes) -> str | None:
    """Return the id in a token; None if it is not written as one."""
    written = TOKEN.fullmatch(sent)
    return None if written is None else written["id"].decode()


def digest_of(secret: bytes) -> str:
    """Return what is stored of a token or session."""
    return hashlib.sha256(secret).hexdigest()
