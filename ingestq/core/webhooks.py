"""Webhooks: their events and targets, what is sent, and how it is signed.

Names, headers and signatures are those of the Standard Webhooks specification, version 1.0.0
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from ingestq.core.errors import encodable
from ingestq.core.results import DeadLetter, FailedDocument, SubmissionStatus

SECRET_PREFIX: Final = "whsec_"  # noqa: S105
SECRET_BYTES: Final = range(24, 65)
"""Allowed lengths of a secret, which the specification gives as 24 to 64 bytes."""
REASON_CHARACTERS: Final = 500
"""Most characters of a reason that are sent; the specification advises payloads under 20 kB."""


class WebhookEvent(StrEnum):
    """What a target can be told. The value is the ``type`` of the payload."""

    SUBMISSION_FINISHED = "submission.finished"
    """Every document of a submission has its outcome."""
    DOCUMENT_DEAD_LETTERED = "document.dead_lettered"
    """A document failed for good."""


TEST_EVENT: Final = "webhook.test"
"""The ``type`` of what `ingestq webhooks test` sends."""


def place_of(url: str) -> str:
    """Return scheme, host and port of ``url``."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@dataclass(frozen=True)
class WebhookTarget:
    """Where ``events`` are posted. Neither ``url`` nor ``secrets`` may be shown: both are secret.

    Messages are signed with each of ``secrets``, so that a receiver can change over from one to the
    next.
    """

    name: str
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    events: tuple[WebhookEvent, ...] = tuple(WebhookEvent)

    @property
    def place(self) -> str:
        """Scheme, host and port of the URL: its path may be secret, too."""
        return place_of(self.url)

    @property
    def url_digest(self) -> str:
        """A digest of the URL, which tells whether it was changed."""
        return hashlib.blake2b(self.url.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Subscriptions:
    """The names of the targets that are told of each event."""

    names: Mapping[WebhookEvent, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, targets: Iterable[WebhookTarget]) -> "Subscriptions":
        """Return what ``targets`` want to be told."""
        listed = tuple(targets)
        return cls(
            {
                event: tuple(target.name for target in listed if event in target.events)
                for event in WebhookEvent
            }
        )

    def to(self, event: WebhookEvent) -> tuple[str, ...]:
        """Return the names of the targets that are told of ``event``."""
        return self.names.get(event, ())


def decode_secret(secret: str) -> bytes:
    """Return the key that ``secret`` stands for. Raises ValueError, which shows nothing of it."""
    encoded = secret.removeprefix(SECRET_PREFIX)
    try:
        if encoded == secret or not encoded.isascii():
            raise ValueError
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(
            "a secret is 'whsec_' and base64; make one with `echo whsec_$(openssl rand -base64 32)`"
        ) from None
    if len(key) not in SECRET_BYTES:
        raise ValueError(
            f"a secret stands for {SECRET_BYTES[0]} to {SECRET_BYTES[-1]} bytes; make one with "
            "`echo whsec_$(openssl rand -base64 32)`"
        )
    return key


def signed_headers(
    message_id: str, unix_seconds: int, body: bytes, secrets: Sequence[str]
) -> dict[str, str]:
    """Return the headers that identify and sign ``body``, once with each of ``secrets``."""
    signed = f"{message_id}.{unix_seconds}.".encode() + body
    signatures = (hmac.digest(decode_secret(secret), signed, "sha256") for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(unix_seconds),
        "webhook-signature": " ".join(
            f"v1,{base64.b64encode(signature).decode()}" for signature in signatures
        ),
    }


def payload(event: str, unix_ms: int, data: Mapping[str, Any]) -> bytes:
    """Return the body of a message: ``event`` happened at ``unix_ms``, and ``data`` is about it."""
    moment = datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds")
    timestamp = moment.replace("+00:00", "Z")
    return msgspec.json.encode({"type": event, "timestamp": timestamp, "data": data})


def shortened(text: str) -> str:
    """Return ``text`` as it is sent, with at most `REASON_CHARACTERS` characters."""
    return encodable(text if len(text) <= REASON_CHARACTERS else text[:REASON_CHARACTERS] + "…")


def submission_data(
    submission: str, status: SubmissionStatus, rejected: Sequence[FailedDocument]
) -> dict[str, Any]:
    """Return the ``data`` of `WebhookEvent.SUBMISSION_FINISHED`; ``rejected`` is listed in it."""
    return {
        "submission": submission,
        "accepted": status.accepted,
        "documents": msgspec.structs.asdict(status.documents),
        "chunks": msgspec.structs.asdict(status.chunks),
        "warned": status.warned.documents,
        "dead_letters": [
            {"doc_id": encodable(document.doc_id), "reason": shortened(document.reason)}
            for document in rejected
        ],
    }


def dead_letter_data(dead_letter: DeadLetter, source: str | None) -> dict[str, Any]:
    """Return the ``data`` of `WebhookEvent.DOCUMENT_DEAD_LETTERED`; None is an unknown source."""
    return {
        "doc_id": encodable(dead_letter.doc_id),
        "source": None if source is None else encodable(source),
        "tenant": dead_letter.tenant,
        "collection": dead_letter.collection,
        "version": dead_letter.version,
        "reason": shortened(dead_letter.reason),
        "tries": dead_letter.tries,
        "submission": dead_letter.submission,
    }
