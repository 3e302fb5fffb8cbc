"""Every JSON line becomes a document or an error with its line number."""

from collections.abc import AsyncIterator

from ingestq.core.documents import Document
from ingestq.core.results import FailedDocument
from producers.files.json_lines import parse


async def parsed(*lines: str) -> list[Document | FailedDocument]:
    async def feed() -> AsyncIterator[bytes]:
        for line in lines:
            yield line.encode("utf-8", "surrogatepass")

    async def clock() -> int:
        return 7

    return [document async for document in parse(feed(), clock)]


async def test_missing_fields_have_defaults() -> None:
    [document] = await parsed('{"doc_id": "a", "text": ""}')
    assert document == Document(doc_id="a", version=7, source="a", text="")


async def test_given_fields_are_kept() -> None:
    [document] = await parsed(
        '{"doc_id": "a", "path": "/x", "version": 3, "source": "web", "tenant": "t",'
        ' "media_type": "text/html", "metadata": {"n": 1}}'
    )
    assert document == Document(
        doc_id="a",
        version=3,
        source="web",
        tenant="t",
        path="/x",
        media_type="text/html",
        metadata={"n": 1},
    )


async def test_invalid_lines_are_reported_and_valid_ones_kept() -> None:
    answers = await parsed(
        "nonsense",
        '{"doc_id": "a"}',
        '{"doc_id": "", "text": "x"}',
        '{"doc_id": "a", "text": "x", "version": -1}',
        '{"doc_id": "a", "text": "x", "metadata": {"n": 123456789012345678901234567890}}',
        '{"doc_id": "a", "text": "\ud800"}',
        '{"doc_id": "a", "text": "x", "colour": "red"}',
        " ",
        '{"doc_id": "good", "text": "x"}',
    )
    assert [answer.doc_id for answer in answers] == [*(f"line {i}" for i in range(1, 8)), "good"]
    assert "colour" in answers[6].reason if isinstance(answers[6], FailedDocument) else False
