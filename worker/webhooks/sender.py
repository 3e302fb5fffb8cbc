"""Posts one message to its target, and says what the answer means."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Final, NamedTuple

import httpx

from ingestq.core.urls import without_secrets
from ingestq.core.webhooks import WebhookTarget, signed_headers
from ingestq.outbound.addresses import AddressRefused
from ingestq.outbound.transport import PublicTransport
from worker.http_answers import retry_after

ANSWER_SECONDS: Final = 20.0
"""How long an attempt may take in all; the specification recommends 15 to 30 seconds."""
CONNECT_SHARE: Final = 1 / 2
"""How much of that all addresses of the target may take together to accept a connection."""
MAX_ERROR_CHARACTERS: Final = 300
USER_AGENT: Final = "ingestq-webhooks/1"


class Attempt(Enum):
    """What an attempt to deliver a message came to."""

    DELIVERED = "delivered"
    """The target answered 2xx."""
    FAILED = "failed"
    """Anything else: it may succeed later."""
    GONE = "gone"
    """The target answered 410: it wants no more messages."""


class AttemptResult(NamedTuple):
    """What an attempt came to, and why it failed. ``retry_after`` is what the target asked for."""

    attempt: Attempt
    error: str = ""
    retry_after: float | None = None


class WebhookSender:
    """Posts messages to targets. Follows no redirects, and reads no body of an answer."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def send(self, target: WebhookTarget, message_id: str, body: bytes) -> AttemptResult:
        """Post ``body`` to ``target``, signed with each of its secrets."""
        headers = {
            "content-type": "application/json",
            "user-agent": USER_AGENT,
            **signed_headers(message_id, int(time.time()), body, target.secrets),
        }
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                self._client.stream("POST", target.url, content=body, headers=headers) as answer,
            ):
                return _result(answer)
        except TimeoutError:
            return AttemptResult(Attempt.FAILED, f"no answer within {ANSWER_SECONDS:g} s")
        except AddressRefused as error:
            return AttemptResult(
                Attempt.FAILED, f"{error}; set INGESTQ_WEBHOOK_ALLOW_PRIVATE=true to allow it"
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = without_secrets(_reason(error), [target.url])
            return AttemptResult(Attempt.FAILED, reason[:MAX_ERROR_CHARACTERS])


def _reason(error: Exception) -> str:
    """Return why a request failed: what the system said, if that is behind it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionError) and cause.errno:
            return f"cannot connect: {os.strerror(cause.errno)}"
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _result(answer: httpx.Response) -> AttemptResult:
    if answer.is_success:
        return AttemptResult(Attempt.DELIVERED)
    if answer.status_code == httpx.codes.GONE:
        return AttemptResult(Attempt.GONE, "answered 410: it wants no more messages")
    more = ", and redirects are not followed" if answer.is_redirect else ""
    error = f"answered {answer.status_code}{more}"
    return AttemptResult(Attempt.FAILED, error, retry_after(answer.headers))


@asynccontextmanager
async def open_sender(*, allow_private: bool) -> AsyncIterator[WebhookSender]:
    """Yield a sender, which connects to private addresses only if ``allow_private``."""
    transport = await asyncio.to_thread(PublicTransport, allow_private=allow_private)
    async with httpx.AsyncClient(
        transport=transport,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=ANSWER_SECONDS * CONNECT_SHARE),
    ) as client:
        yield WebhookSender(client)
