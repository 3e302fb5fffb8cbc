"""Clients that hold connections open stop nobody: neither other clients, nor the worker."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from httpx import AsyncClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestq.api.app import ApiConfig, create_app
from ingestq.api.bodies.intake import MIN_BYTES_PER_SECOND
from ingestq.api.connections import ConnectionLimits
from ingestq.app.composition import Broker
from ingestq.core import events
from ingestq.core.results import SubmissionStatus
from ingestq.core.search_query import SearchQuery, SearchResult
from tests.command import Ingestq
from tests.running_command import Running, serving
from tests.serving import listening, services
from tests.waiting import eventually
from worker.pipeline.points import SearchHit

FEW_FILES = 256
QUICK = ConnectionLimits(head_seconds=0.5, unread_seconds=0.5)
PATIENT = ConnectionLimits(connections=3, head_seconds=600, keep_alive_seconds=600)
SILENCE_SECONDS = 0.5
SECONDS = 20
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
HEALTHY = b'{"status":"ok","checks":{}}'
POST = b"POST /documents HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class Limited(Ingestq):
    """The command in a process that may open few files."""

    @staticmethod
    def command(*arguments: str | Path) -> list[str | Path]:
        limit = f'ulimit -n {FEW_FILES} && exec "$@"'
        return ["sh", "-c", limit, "sh", *Ingestq.command(*arguments)]


@contextmanager
def flood(served: Running, starts: tuple[bytes, ...]) -> Iterator[list[socket.socket]]:
    """Open more connections than the process may open files, and send a start of a request."""
    opened: list[socket.socket] = []
    try:
        for n in range(2 * FEW_FILES):
            connection = served.connect()
            opened.append(connection)
            with suppress(OSError):  # closed again already
                connection.sendall(starts[n % len(starts)])
        yield opened
    finally:
        for connection in opened:
            connection.close()


async def is_indexed(broker: Broker, doc_id: str) -> None:
    """Submit a document through Redis, and wait until it is indexed."""
    receipt = await broker.client.submit(doc_id, text="The ferry leaves at noon.", source="notes")

    async def status() -> SubmissionStatus:
        return await broker.client.status(receipt.submission)

    ended = await eventually(status, lambda status: status.complete, seconds=60)
    assert ended.documents.indexed == 1


@pytest.mark.slow
async def test_idle_connections_stop_neither_the_worker_nor_other_clients(
    broker: Broker, tmp_path: Path
) -> None:
    starts = (b"", HEAD[:30], POST + b"Content-Length: 100\r\n\r\n{")
    with serving(Limited(tmp_path), "up", redis_url=broker.config.url) as served:
        await is_indexed(broker, "before")
        with flood(served, starts) as opened:
            await is_indexed(broker, "meanwhile")
            assert await asyncio.to_thread(answers, served)
            for connection in opened:  # one byte more, as a slow client does
                with suppress(OSError):
                    connection.sendall(b"a")
            await is_indexed(broker, "slow")
            assert await asyncio.to_thread(answers, served)
            for connection in opened[:: len(starts)]:  # they sent nothing but a byte
                await asyncio.to_thread(ends, connection)
        served.stop()
    assert events.API_CONNECTIONS_FULL in served.said()
    assert len(served.said()) < 10_000, served.said()[:2000]
    assert "Traceback" not in served.said()


def answers(served: Running) -> bool:
    """Return whether another client gets an answer."""
    return httpx.get(f"{served.url}/status", timeout=60).is_success


def ends(connection: socket.socket) -> None:
    """Wait until the server closes ``connection``."""
    connection.settimeout(SECONDS)
    with suppress(ConnectionError):
        while connection.recv(65_536):
            pass


def test_too_few_files_are_a_clear_error(tmp_path: Path) -> None:
    class Starved(Limited):
        @staticmethod
        def command(*arguments: str | Path) -> list[str | Path]:
            return ["sh", "-c", 'ulimit -n 64 && exec "$@"', "sh", *Ingestq.command(*arguments)]

    Starved(tmp_path, {"api_port": "0"})("api").failed_with(2, "64 files", "ulimit -n")


# In this process, with shorter deadlines


@asynccontextmanager
async def limited(
    broker: Broker, limits: ConnectionLimits, hits: int = 0
) -> AsyncIterator[tuple[str, int]]:
    """Serve the API with ``limits``; yields host and port. A search returns so many large hits."""

    async def search(query: SearchQuery) -> SearchResult[SearchHit]:
        return SearchResult([SearchHit(0.5, "a", "a", n, "x" * 100_000, {}) for n in range(hits)])

    app = create_app(services(broker, search), ApiConfig(100_000, None, SILENCE_SECONDS))
    async with listening(app, limits) as url:
        host, port = url.removeprefix("http://").split(":")
        yield host, int(port)


def calling(place: tuple[str, int]) -> AsyncClient:
    return AsyncClient(base_url=f"http://{place[0]}:{place[1]}", timeout=SECONDS)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Return everything up to the end of the connection."""
    received = b""
    async with asyncio.timeout(SECONDS):
        with suppress(ConnectionError):
            while part := await reader.read(65_536):
                received += part
    return received


async def trickle(writer: asyncio.StreamWriter, byte: bytes = b"x") -> None:
    """Send a byte now and then, until the connection is closed."""
    with suppress(ConnectionError):
        while True:
            writer.write(byte)
            await writer.drain()
            await asyncio.sleep(SILENCE_SECONDS / 10)


async def cut_off(place: tuple[str, int], start: bytes, byte: bytes = b"x") -> bytes:
    """Send ``start`` and then a byte now and then; return the response before the end."""
    reader, writer = await asyncio.open_connection(*place)
    writer.write(start)
    slow = asyncio.create_task(trickle(writer, byte))
    try:
        return await rest(reader)
    finally:
        slow.cancel()
        writer.close()


async def test_a_request_has_to_begin_and_its_headers_to_end(broker: Broker) -> None:
    async with limited(broker, QUICK) as place:
        reader, writer = await asyncio.open_connection(*place)
        assert await rest(reader) == b"", "it sent nothing"
        writer.close()
        assert await cut_off(place, b"") == b""
        assert await cut_off(place, HEAD + b"X-Slow: ") == b""
        first = HEAD + b"\r\n"
        assert (await cut_off(place, first + HEAD + b"X-Slow: ")).count(b"HTTP/1.1 200") == 1


async def test_a_body_that_nobody_reads_keeps_no_connection(broker: Broker) -> None:
    async with limited(broker, QUICK) as place:
        start = POST.replace(b"json", b"pdf") + b"Content-Length: 1000000\r\n\r\n"
        assert b" 415 " in await cut_off(place, start)


async def test_a_slow_body_is_cut_off(broker: Broker) -> None:
    async with limited(broker, PATIENT) as place:
        sized = POST + b"Content-Length: 90000\r\nConnection: close\r\n\r\n{"
        assert b" 408 " in await cut_off(place, sized)
        chunked = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        assert b" 408 " in await cut_off(place, chunked, b"1\r\nx\r\n")
        much = sized.replace(b"90000", b"99000") + b"x" * 95_000
        assert b" 408 " in await cut_off(place, much), "what came fast buys no time"


class Pace:
    """The longest time between two steps of a client, which a busy machine may make longer."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = asyncio.get_running_loop().time()

    def step(self) -> None:
        now = asyncio.get_running_loop().time()
        self.longest, self._last = max(self.longest, now - self._last), now


async def test_a_slow_but_steady_upload_is_accepted(broker: Broker) -> None:
    pieces, pause = 12, SILENCE_SECONDS / 4
    text = "x" * int(2 * MIN_BYTES_PER_SECOND * pause)

    async def body(pace: Pace) -> AsyncIterator[bytes]:
        yield b'{"doc_id": "note", "text": "'
        for _ in range(pieces):
            await asyncio.sleep(pause)
            pace.step()
            yield text.encode()
        yield b'"}'

    async def upload(api: AsyncClient) -> tuple[str, Pace]:
        pace, headers = Pace(), {"Content-Type": "application/json"}
        try:
            answer = await api.post("/documents", content=body(pace), headers=headers)
            said = f"{answer.status_code} {answer.text}"
        except httpx.TransportError as error:  # it was cut off
            said = repr(error)
        pace.step()
        return said, pace

    assert pieces * pause > 2 * SILENCE_SECONDS
    async with limited(broker, PATIENT) as place, calling(place) as api:
        said, pace = await upload(api)
        while not said.startswith("202 ") and pace.longest > 2 * pause:  # it was not steady
            said, pace = await upload(api)
    assert said.startswith("202 "), said


async def test_a_client_that_reads_nothing_is_cut_off(broker: Broker) -> None:
    request = b"GET /search?q=x HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as opened:
        async with limited(broker, QUICK, hits=200) as place:
            for pipelined in (1, 20):
                connection = opened.enter_context(socket.create_connection(place))
                connection.sendall(pipelined * request)
                await asyncio.to_thread(connection.recv, 1)  # the rest is left unread
        # The server has stopped: it waits until no connection is open.


async def test_a_large_answer_is_sent_to_a_client_that_reads_slowly(broker: Broker) -> None:
    async def read_slowly(place: tuple[str, int]) -> tuple[int, Pace]:
        reader, writer = await asyncio.open_connection(*place, limit=4096)
        writer.write(b"GET /search?q=x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received, pace = 0, Pace()
        with suppress(ConnectionError):  # it was cut off
            while part := await reader.read(100_000):
                received += len(part)
                await asyncio.sleep(0.01)
                pace.step()
        writer.close()
        return received, pace

    async with limited(broker, QUICK, hits=20) as place:
        received, pace = await read_slowly(place)
        while received <= 20 * 100_000 and pace.longest > QUICK.unread_seconds / 2:
            received, pace = await read_slowly(place)
    assert received > 20 * 100_000


async def test_a_new_client_takes_the_place_of_the_one_that_was_idle_for_longest(
    broker: Broker,
) -> None:
    async with limited(broker, PATIENT) as place:
        held = [await asyncio.open_connection(*place) for _ in range(PATIENT.connections)]
        held[0][1].write(HEAD[:10])  # active after the others
        held[1][1].write(HEAD + b"\r\n")
        await held[1][0].readuntil(HEALTHY)
        async with calling(place) as api:
            assert (await api.get("/healthz")).status_code == 200
            assert await rest(held[2][0]) == b""
            held[1][1].write(HEAD + b"\r\n")
            await held[1][0].readuntil(HEALTHY)  # it was kept
        for _, writer in held:
            writer.close()


async def test_connections_with_running_requests_are_kept(broker: Broker) -> None:
    one = ConnectionLimits(connections=1, head_seconds=QUICK.head_seconds)
    async with limited(broker, one) as place, calling(place) as viewer, calling(place) as other:
        async with viewer.stream("GET", "/dashboard/events") as stream:
            parts = stream.aiter_text()
            await anext(parts)
            waiting = asyncio.create_task(other.get("/healthz"))
            await broker.client.submit("note", text="text", source="notes")
            while "event: submissions" not in await anext(parts):  # the stream goes on
                pass
            assert not waiting.done()
        assert (await waiting).status_code == 200


@pytest.mark.parametrize("size", [20_000, 400_000])
async def test_large_headers_are_refused(broker: Broker, size: int) -> None:
    async with limited(broker, PATIENT) as place:
        reader, writer = await asyncio.open_connection(*place)
        writer.write(HEAD + b"X-Large: " + b"x" * size)
        answer = await rest(reader)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400") or answer == b"", "a reset may destroy the answer"


PIECES = st.sampled_from(
    [
        HEAD,
        POST,
        b"\r\n",
        b"Content-Length: 5\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: close\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
        b"2\r\n{}\r\n",
        b"0\r\n\r\n",
        b"GET /dashboard/events HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
)


@pytest.fixture
async def place(broker: Broker) -> AsyncIterator[tuple[str, int]]:
    async with limited(broker, ConnectionLimits(head_seconds=0.05)) as place:
        yield place


@given(st.lists(PIECES | st.binary(max_size=40), min_size=1, max_size=8))
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_no_bytes_cause_an_error(
    place: tuple[str, int], caplog: pytest.LogCaptureFixture, pieces: list[bytes]
) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_connection(place) as connection, suppress(ConnectionError):
        connection.setblocking(False)
        for piece in pieces:
            await loop.sock_sendall(connection, piece)
            await asyncio.sleep(0)  # so that they arrive apart
        if b"/dashboard/events" not in b"".join(pieces):  # which does not end
            while await asyncio.wait_for(loop.sock_recv(connection, 65_536), SECONDS):
                pass
    # asyncio warns of writes to a client that has gone; commands do not log that.
    assert not [r for r in caplog.records if r.name != "asyncio" or r.levelno >= logging.ERROR]
