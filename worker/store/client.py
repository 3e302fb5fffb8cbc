"""The process's one AsyncQdrantClient, with Qdrant's errors translated and requests retried."""

import asyncio
import json
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import httpx
import stamina
import structlog
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from ingestq.core import metrics
from ingestq.core.errors import (
    CollectionMissing,
    StoreFull,
    StoreRejected,
    StoreTooSlow,
    StoreUnavailable,
    UsageError,
)
from ingestq.core.outages import note_answer
from ingestq.core.service import uninterrupted
from ingestq.core.urls import public_url, secrets_in, without_secrets
from worker.bisection import bisect_on_failure
from worker.http_answers import (
    FailedAnswer,
    retry_after,
    retry_delay,
)
from worker.store.answers import qdrant_error

log = structlog.get_logger()

T = TypeVar("T")
Request = Callable[[AsyncQdrantClient], Awaitable[T]]

ANSWER_SECONDS: Final = 60
PATIENCE_SECONDS: Final = 20.0
"""How long a failed request is repeated before its job is nacked."""
LARGEST_BODY: Final = 32 * 1024 * 1024
"""What a server accepts unless it is configured otherwise. Qdrant 1.18 does not refuse a larger
body, but closes the connection, which looks like an outage."""
MAX_CONNECTIONS: Final = 8
"""About as many as a worker makes in parallel. It is set because the client otherwise keeps no
connection to localhost alive. More would slow requests down: each checks every idle connection."""
ENGINE_URL: Final = "http://qdrant"
"""For the client, which wants one, when it connects to a socket."""
UNTRUSTED: Final = "CERTIFICATE_VERIFY_FAILED"
"""Text in the errors of a server whose certificate is not trusted."""
NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody. For a socket; the default one would read all certificates of the system."""


@dataclass(frozen=True)
class QdrantConfig:
    """Where Qdrant is: a server at ``url``, or the bundled one on the Unix ``socket``.

    ``outage`` returns the message of StoreUnavailable for a Qdrant that ingestq runs itself. It is
    called when a connection has failed, and must not block. No request with a body of more than
    ``largest_body`` bytes is sent. The certificate of a server with https is checked with the
    authorities in ``ca_file``, or those of the system.
    """

    url: str | None = field(repr=False)
    api_key: str | None = field(repr=False)
    socket: Path | None = None
    outage: Callable[[], str] | None = None
    largest_body: int = LARGEST_BODY
    ca_file: Path | None = None

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return public_url(self.url) if self.url else str(self.socket)

    @property
    def secrets(self) -> list[str]:
        """What messages must not show."""
        return [*([self.api_key] if self.api_key else []), *secrets_in(self.url or "")]


class Qdrant(Protocol):
    """A connection to Qdrant. Its errors are those of `ingestq.core.errors`."""

    async def ask(self, request: Request[T]) -> T:
        """Send ``request`` with the client, and return its result.

        Raises StoreUnavailable if a later try may succeed, StoreRejected if it never will, and
        UsageError if no request can succeed; see `worker.store.answers`.
        """
        ...


def applied(write: Request[models.UpdateResult]) -> Request[models.UpdateResult]:
    """Return the request ``write``, made to raise StoreUnavailable unless Qdrant applied it.

    Qdrant answers a write that timed out with success.
    """

    async def ask(client: AsyncQdrantClient) -> models.UpdateResult:
        result = await write(client)
        check_applied(result)
        return result

    return ask


def check_applied(result: models.UpdateResult) -> None:
    """Raise StoreUnavailable unless the write was applied. It may still be applied later."""
    if result.status is not models.UpdateStatus.COMPLETED:
        raise StoreUnavailable(f"Qdrant accepted a write but did not apply it in time: {result}")


async def ask_in_parts(
    items: Sequence[T],
    ask: Callable[[Sequence[T]], Awaitable[object]],
    name: Callable[[T], str],
) -> None:
    """Send all ``items`` in one request; bisect them if Qdrant refuses it or times out.

    Stops at the first item that is refused by itself, and raises its error with the ``name`` of the
    item. The items before it are done.
    """

    async def ask_for(part: Sequence[T]) -> Sequence[None]:
        await ask(part)
        return [None] * len(part)

    async for item, error in bisect_on_failure(items, ask_for, _may_pass_in_parts):
        if isinstance(error, StoreRejected):
            raise type(error)(f"{name(item)}: {error}") from error
        if error is not None:
            raise error


def _may_pass_in_parts(error: Exception) -> bool:
    return isinstance(error, StoreRejected | StoreTooSlow)


class PatientQdrant:
    """Repeats requests, with jittered back-off, while Qdrant is unavailable.

    Gives up after `PATIENCE_SECONDS`, or at once if Qdrant names a longer wait, is full, or timed
    out: then the job has to be nacked, or the request made smaller. Only for requests that may be
    sent twice.
    """

    def __init__(self, qdrant: Qdrant) -> None:
        self._qdrant = qdrant
        self._retrying = stamina.AsyncRetryingCaller(
            attempts=None, timeout=PATIENCE_SECONDS, wait_initial=0.2, wait_max=5.0
        ).on(_when_to_retry)

    async def ask(self, request: Request[T]) -> T:
        """See `Qdrant.ask`."""
        try:
            return await self._retrying(self._qdrant.ask, request)
        except CollectionMissing:  # the alias may have been moved meanwhile: resolve it once more
            return await self._retrying(self._qdrant.ask, request)


def _when_to_retry(error: Exception) -> bool | float:
    """Return when to repeat a failed request; see `retry_delay`."""
    if not isinstance(error, StoreUnavailable) or isinstance(error, StoreTooSlow | StoreFull):
        return False
    return retry_delay(error, PATIENCE_SECONDS)


@asynccontextmanager
async def connect_qdrant(config: QdrantConfig) -> AsyncIterator[Qdrant]:
    """Open a client; close it on leaving. Qdrant is first contacted by the first request.

    Raises UsageError if the URL or the file of certificate authorities is wrong.
    """
    # In a thread: it imports much, and would block the event loop for too long.
    client = await asyncio.to_thread(_client, config)
    try:
        yield _RemoteQdrant(config, client)
    finally:
        await uninterrupted(client.close())


def _client(config: QdrantConfig) -> AsyncQdrantClient:
    # Sending a key without TLS is usual in a private network, and the user's decision. The client
    # would warn at every start.
    warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
    limits = httpx.Limits(
        max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS
    )
    socket = None if config.socket is None else str(config.socket)
    how: dict[str, Any] = (
        {"limits": limits, **_trust(config.ca_file)}
        if socket is None
        else {"transport": httpx.AsyncHTTPTransport(uds=socket, limits=limits, verify=NO_TLS)}
    )
    try:
        return AsyncQdrantClient(
            url=config.url or ENGINE_URL,
            api_key=config.api_key,
            timeout=ANSWER_SECONDS,
            check_compatibility=False,  # it would send a blocking request
            cloud_inference=True,  # else it searches every point for texts to embed by itself
            event_hooks={"request": [partial(_refuse_oversize, config.largest_body)]},
            **how,
        )
    except ValueError as error:
        raise UsageError(
            f"INGESTQ_QDRANT_URL {config.place!r} is not a URL; write http://HOST:6333"
        ) from error


def _trust(ca_file: Path | None) -> dict[str, ssl.SSLContext]:
    """Return httpx's option for whom to trust; none if those whom the system trusts."""
    if ca_file is None:
        return {}
    try:
        return {"verify": ssl.create_default_context(cafile=str(ca_file))}
    except OSError as error:
        raise UsageError(
            f"INGESTQ_QDRANT_CA_FILE is '{ca_file}', which has no certificates that can be read: "
            f"{error.strerror or error}"
        ) from error


class _RemoteQdrant:
    def __init__(self, config: QdrantConfig, client: AsyncQdrantClient) -> None:
        self._config = config
        self._client = client

    async def ask(self, request: Request[T]) -> T:
        try:
            answer = await self._ask(request)
        except Exception as error:
            metrics.count_error(metrics.ServiceName.QDRANT, error)
            raise
        note_answer(StoreUnavailable)
        return answer

    async def _ask(self, request: Request[T]) -> T:
        try:
            return await request(self._client)
        except ResponseHandlingException as error:
            if isinstance(error.source, StoreRejected):  # it was not sent
                raise error.source from None
            raise _unavailable(self._config, error.source) from error
        except json.JSONDecodeError as error:
            raise StoreUnavailable(
                f"{self._config.place} does not answer like Qdrant ({error}); set "
                "INGESTQ_QDRANT_URL to a Qdrant server"
            ) from error
        except QdrantException as error:  # 429; the client reads Retry-After, but no dates
            raise StoreUnavailable(
                f"Qdrant at {self._config.place} limits requests: "
                + without_secrets(str(error), self._config.secrets),
                _retry_after(error),
            ) from error
        except UnexpectedResponse as error:
            answer = FailedAnswer(error.status_code or 0, error.headers, error.content)
            raise qdrant_error(self._config.place, answer, self._config.secrets) from error


async def _refuse_oversize(largest: int, request: httpx.Request) -> None:
    """Raise StoreRejected if the body of ``request`` is larger than Qdrant accepts."""
    size = len(request.content)
    if size > largest:
        raise StoreRejected(
            f"the request has {size:,} bytes, and Qdrant accepts {largest:,} at most"
        )


def _retry_after(error: QdrantException) -> float | None:
    if not isinstance(error, ResourceExhaustedResponse):
        return None
    return retry_after({"retry-after": str(error.retry_after_s)})


def _unavailable(config: QdrantConfig, error: Exception) -> StoreUnavailable:
    if config.outage is not None:
        return StoreUnavailable(config.outage())
    detail = without_secrets(str(error), config.secrets) or type(error).__name__
    if UNTRUSTED in detail:
        return StoreUnavailable(
            f"the certificate of Qdrant at {config.place} is not trusted ({detail}); set "
            "INGESTQ_QDRANT_CA_FILE to the file of its authority"
        )
    return StoreUnavailable(
        f"Qdrant does not answer at {config.place} ({detail}); start it or set "
        "INGESTQ_QDRANT_URL (if it is unset, ingestq starts its own Qdrant)"
    )
