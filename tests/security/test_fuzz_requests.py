"""Whatever bytes and names arrive, each parser answers with its own error or with a value.

Each check runs on a few hundred inputs, and as a slow test on as many as fit into a fixed time.
"""

import asyncio
import codecs
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestq.api.app import ApiConfig, create_app
from ingestq.api.bodies.multipart import FormSplitter, PartEnd, PartStart
from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.core.documents import Document
from ingestq.core.errors import ContractError
from ingestq.core.jobs import IngestBatch, Job, decode_job, encode_job
from ingestq.core.limits import NAME_BYTES, decode_metadata, presentable
from ingestq.core.results import FailedDocument
from producers.files.json_lines import parse, read_lines
from tests.serving import listening, services

QUICK_EXAMPLES = 200
SLOW_SECONDS = 15.0
MAX_LINE = 200
HEADERS_HELD = 8 * (4096 + 128)
"""What `FormSplitter` may keep of the headers of one part."""

BOUNDARY = b"xyz"
FORM = (
    b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n'
    b"Content-Type: text/plain\r\n\r\nThe ferry.\r\n"
    b"--xyz\r\nContent-Disposition: form-data; name=metadata; filename*=utf-8''%e2%82%ac\r\n\r\n"
    b'{"a": 1}\r\n--xyz--\r\n'
)
LINES = (
    b'{"doc_id": "a", "text": "x"}\n\n{"doc_id": "b", "path": "p", "metadata": {"a": [1, null]}}\n'
    b'{"doc_id": 1}\r\nnot json\n{"doc_id": "c", "text": "' + b"x" * 300 + b'"}\n'
)
JOB = encode_job(
    IngestBatch(
        "s",
        tuple(
            Document(
                doc_id=doc_id,
                version=1,
                source="s",
                text="x",
                collection="c",
                metadata={"a": [1, {"b": 0.5}]},
            )
            for doc_id in ("a", "b")
        ),
    ),
    enqueued_ms=1,
)
METADATA = b'{"a": [1, 2.5e300, null, true], "b": {"c": "\\ud83d\\ude00"}}'

pieces = st.one_of(
    st.binary(max_size=8),
    st.sampled_from(
        [
            *(b"\r\n", b"\n", b"--xyz", b"--", b'"', b"\\", b"{", b"[" * 40, b'{"a":' * 40, b";"),
            *(
                b"\xff",
                b"\x00",
                b"\x81\xa1a" * 40,
                b"\xdf\xff\xff\xff\xff",
                b"\xc6\x7f\xff\xff\xff",
            ),
            *(b"1e400", b"9" * 30, b"NaN", b"\\ud800", b"filename*=", b"Content-Disposition:"),
        ]
    ),
)
edits = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 12), pieces), max_size=8)
cuts = st.lists(st.integers(0, 10_000), max_size=12)


def mutations_of(valid: bytes) -> st.SearchStrategy[bytes]:
    """Return ``valid`` with some bytes replaced, or any other bytes."""

    def edited(changes: Sequence[tuple[int, int, bytes]]) -> bytes:
        data = valid
        for place, removed, added in changes:
            start = place % (len(data) + 1)
            data = data[:start] + added + data[start + removed :]
        return data

    return edits.map(edited) | st.binary(max_size=300)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Return ``data`` in pieces, cut at ``places``."""
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


def check_form(sent: tuple[bytes, Sequence[int]]) -> None:
    """Every part that begins ends, with no more content than was sent, or it is no form."""
    body, places = sent
    splitter = FormSplitter(f"multipart/form-data; boundary={BOUNDARY.decode()}")
    is_open, content = False, 0
    try:
        for piece in cut(body, places):
            for event in splitter.feed(piece):
                match event:
                    case PartStart():
                        assert not is_open
                        is_open = True
                    case bytes():
                        assert is_open
                        content += len(event)
                    case PartEnd():
                        assert is_open
                        is_open = False
            held = sum(len(k) + len(v) for k, v in splitter._headers.items())
            assert held + len(splitter._name) + len(splitter._value) <= HEADERS_HELD
            assert not splitter._data
        splitter.end()
    except ValueError:
        return
    assert not is_open
    assert content <= len(body)


def check_lines(sent: tuple[bytes, Sequence[int]]) -> None:
    """Each line is a document, blank, or reported by its number, wherever the input is cut."""
    data, places = sent
    rest = [piece for piece in cut(data, places) if piece]

    class Pipe:
        async def read1(self, size: int, /) -> bytes:
            return rest.pop(0) if rest else b""

    async def clock() -> int:
        return 1

    async def read() -> list[Document | FailedDocument]:
        return [found async for found in parse(read_lines(Pipe(), MAX_LINE), clock)]

    lines = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    told = [n for n, line in enumerate(lines, 1) if line.strip() or len(line) > MAX_LINE]
    found = asyncio.run(read())
    if json.detect_encoding(data[:4]) not in {"utf-8", "utf-8-sig"}:
        return  # its lines end otherwise
    assert len(found) == len(told)
    for number, item in zip(told, found, strict=True):
        assert isinstance(item, Document) or item.doc_id == f"line {number}"
        if isinstance(item, Document):
            item.doc_id.encode()


def check_metadata(data: bytes) -> None:
    """Metadata that is accepted can be queued, stored and shown as it was sent."""
    try:
        metadata = decode_metadata(data)
    except ValueError:
        return
    document = Document(doc_id="a", version=1, source="s", text="x", metadata=metadata)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(document), type=Document) == document
    assert presentable(metadata) == metadata
    msgspec.json.encode(metadata)


def check_job(payload: bytes) -> None:
    """Bytes on the queue are a job whose documents are valid, or are refused."""
    try:
        job = decode_job(payload)
    except ContractError:
        return
    assert isinstance(job, Job)
    assert decode_job(encode_job(job.batch, enqueued_ms=1)).batch == job.batch
    assert job.batch.job_id


CHECKS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]] = {
    "forms": (st.tuples(mutations_of(FORM), cuts), check_form),
    "lines": (st.tuples(mutations_of(LINES), cuts), check_lines),
    "metadata": (mutations_of(METADATA), check_metadata),
    "jobs": (mutations_of(JOB), check_job),
}


def fuzz(name: str, examples: int) -> None:
    inputs, check = CHECKS[name]
    run = settings(max_examples=examples, deadline=None, database=None)(given(inputs)(check))
    run()


@pytest.mark.parametrize("name", CHECKS)
def test_any_bytes_are_parsed_or_refused(name: str) -> None:
    fuzz(name, QUICK_EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_any_bytes_are_parsed_or_refused_for_a_while(name: str) -> None:
    ends = time.monotonic() + SLOW_SECONDS
    while time.monotonic() < ends:
        fuzz(name, 10 * QUICK_EXAMPLES)


ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60) | st.sampled_from(
    [".", "..", "/", "//", "a/../b", "%2F", "%", "?", "#", "a\nb", "\0", " ", "+", ":batch", "ü/ß"]
)


class Asked:
    """An index that knows no document, and remembers which it was asked for."""

    def __init__(self) -> None:
        self.doc_ids: list[str] = []

    async def __call__(self, tenant: str, doc_id: str, collection: str) -> None:
        self.doc_ids.append(doc_id)


@pytest.fixture
async def asked() -> Asked:
    return Asked()


@pytest.fixture
async def api(broker: Broker, asked: Asked) -> AsyncIterator[httpx.AsyncClient]:
    """A real server, for which the index is a stand-in."""
    app = create_app(services(broker, index=asked), ApiConfig(100_000))
    async with listening(app) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        yield client


def path_of(doc_id: str) -> str:
    """Return the path of a document; clients would resolve a segment of only dots."""
    return f"/documents/{quote(doc_id, safe='').replace('.', '%2E')}"


async def follow(api: httpx.AsyncClient, broker: Broker, asked: Asked, doc_id: str) -> None:
    """Send a document, ask for it and delete it: each time it is the same one."""
    await broker.redis.flushdb()
    asked.doc_ids.clear()
    sent = await api.post("/documents", json={"doc_id": doc_id, "text": "x"})
    if len(doc_id.encode()) > NAME_BYTES:
        assert sent.status_code == 422, sent.text
    else:
        assert sent.status_code == 202, sent.text
    state = await api.get(path_of(doc_id))
    assert (state.status_code, asked.doc_ids) == (404, [doc_id])
    deleted = await api.delete(path_of(doc_id))
    assert deleted.status_code == sent.status_code, deleted.text
    jobs = [
        decode_job(await broker.redis.get(key))
        async for key in broker.redis.scan_iter(keys.JOB + "*-*")
    ]
    queued = [document.doc_id for job in jobs for document in job.batch.documents]
    assert queued == ([doc_id] * 2 if sent.status_code == 202 else [])


same_fixtures = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@same_fixtures
@given(doc_id=ids)
async def test_any_id_is_the_same_in_a_body_and_in_a_path(
    api: httpx.AsyncClient, broker: Broker, asked: Asked, doc_id: str
) -> None:
    await follow(api, broker, asked, doc_id)


@pytest.mark.slow
@settings(same_fixtures, max_examples=500)
@given(doc_id=ids | st.integers(1, 400).map(lambda n: "€" * n))
async def test_many_ids_are_the_same_in_a_body_and_in_a_path(
    api: httpx.AsyncClient, broker: Broker, asked: Asked, doc_id: str
) -> None:
    await follow(api, broker, asked, doc_id)
