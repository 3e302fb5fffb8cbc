"""The process's one AsyncQdrantClient, with Qdrant's errors translated and requests retried.

The client of a server runs on the caller's event loop. The local mode is pure Python and blocks its
caller, so it runs in a thread with an event loop of its own.
"""

import asyncio
import json
import sqlite3
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

import httpx
import stamina
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from ingestq.core.errors import (
    CollectionMissing,
    StoreFull,
    StoreRejected,
    StoreTooSlow,
    StoreUnavailable,
    UsageError,
    public_url,
)
from worker.bisection import bisect_on_failure
from worker.http_answers import (
    FailedAnswer,
    retry_after,
    retry_delay,
    without_secrets,
)
from worker.store.answers import qdrant_error

T = TypeVar("T")
Request = Callable[[AsyncQdrantClient], Awaitable[T]]

ANSWER_SECONDS: Final = 60
PATIENCE_SECONDS: Final = 20.0
"""How long a failed request is repeated before its job is nacked."""
MAX_CONNECTIONS: Final = 8
"""About as many as a worker makes in parallel. It is set because the client otherwise keeps no
connection to localhost alive. More would slow requests down: each checks every idle connection."""
LOCAL_MODE_WARNINGS: Final = (
    "Payload indexes have no effect in the local Qdrant",
    "Local mode is not recommended for collections with more than",
    "Local mode performs exact",
)
"""Not shown, because the documentation says it: the local mode is for small collections."""


@dataclass(frozen=True)
class QdrantConfig:
    """Where Qdrant is: a server at ``url``, or the local mode in ``path``."""

    url: str | None
    api_key: str | None
    path: Path

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return public_url(self.url) if self.url else f"the local Qdrant in {self.path}"


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
    """Open a client of the server, or the local mode; close it on leaving.

    Raises StoreUnavailable if another process uses the local mode. A server is first contacted by
    the first request.
    """
    opened = await (_RemoteQdrant.open(config) if config.url else _LocalQdrant.open(config))
    try:
        yield opened
    finally:
        await opened.close()


class _RemoteQdrant:
    def __init__(self, config: QdrantConfig, client: AsyncQdrantClient) -> None:
        self._config = config
        self._client = client

    @classmethod
    async def open(cls, config: QdrantConfig) -> "_RemoteQdrant":
        try:
            # Sending a key without TLS is usual in a private network, and the user's decision. The
            # client would warn at every start.
            warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
            client = AsyncQdrantClient(
                url=config.url,
                api_key=config.api_key,
                timeout=ANSWER_SECONDS,
                check_compatibility=False,  # it would send a blocking request
                limits=httpx.Limits(
                    max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS
                ),
            )
        except ValueError as error:
            raise UsageError(
                f"INGESTQ_QDRANT_URL {config.place!r} is not a URL; write http://HOST:6333"
            ) from error
        return cls(config, client)

    async def ask(self, request: Request[T]) -> T:
        try:
            return await request(self._client)
        except ResponseHandlingException as error:
            raise _unavailable(self._config, error.source) from error
        except json.JSONDecodeError as error:
            raise StoreUnavailable(
                f"{self._config.place} does not answer like Qdrant ({error}); set "
                "INGESTQ_QDRANT_URL to a Qdrant server"
            ) from error
        except QdrantException as error:  # 429; the client reads Retry-After, but no dates
            raise StoreUnavailable(
                f"Qdrant at {self._config.place} limits requests: {error}",
                _retry_after(error),
            ) from error
        except UnexpectedResponse as error:
            answer = FailedAnswer(error.status_code or 0, error.headers, error.content)
            raise qdrant_error(self._config.place, answer) from error

    async def close(self) -> None:
        await self._client.close()


class _LocalQdrant:
    def __init__(self, config: QdrantConfig) -> None:
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="local-qdrant", daemon=True
        )
        self._client: AsyncQdrantClient

    @classmethod
    async def open(cls, config: QdrantConfig) -> "_LocalQdrant":
        local = cls(config)
        local._thread.start()
        try:
            local._client = await local._run(local._open())
        except RuntimeError as error:
            await local._stop()
            raise StoreUnavailable(
                f"{config.place} is in use by another ingestq process; wait until that ends, or "
                "set INGESTQ_QDRANT_URL to a Qdrant server, which many processes can use"
            ) from error
        except OSError as error:
            await local._stop()
            raise UsageError(f"{config.place} cannot be opened: {error}") from error
        return local

    async def ask(self, request: Request[T]) -> T:
        try:
            return await self._run(request(self._client))
        except ValueError as error:
            raise StoreRejected(f"{self._config.place} refuses the request: {error}") from error
        except sqlite3.OperationalError as error:
            kind = StoreFull if error.sqlite_errorcode == sqlite3.SQLITE_FULL else StoreUnavailable
            raise kind(f"{self._config.place} cannot be written to: {error}") from error

    async def close(self) -> None:
        await self._run(self._client.close())
        await self._stop()

    async def _open(self) -> AsyncQdrantClient:
        for message in LOCAL_MODE_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        self._config.path.mkdir(parents=True, exist_ok=True)
        return AsyncQdrantClient(path=str(self._config.path))

    async def _run(self, awaitable: Awaitable[T]) -> T:
        async def on_thread() -> T:
            return await awaitable

        future = asyncio.run_coroutine_threadsafe(on_thread(), self._loop)
        return await asyncio.wrap_future(future)

    async def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()


def _retry_after(error: QdrantException) -> float | None:
    if not isinstance(error, ResourceExhaustedResponse):
        return None
    return retry_after({"retry-after": str(error.retry_after_s)})


def _unavailable(config: QdrantConfig, error: Exception) -> StoreUnavailable:
    detail = without_secrets(str(error)) or type(error).__name__
    return StoreUnavailable(
        f"Qdrant does not answer at {config.place} ({detail}); start it or set "
        "INGESTQ_QDRANT_URL (unset, ingestq uses a local one)"
    )
