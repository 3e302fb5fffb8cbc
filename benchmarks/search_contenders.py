"""Contenders of the search benchmark: ingestq, and the splitters of other libraries.

All go through ingestq's own pipeline into collections of one Qdrant, with the same model and the
same encoder of words; only the chunks differ.
"""

import asyncio
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Final, cast

import msgspec
from tokenizers import Tokenizer

from ingestq.core.documents import Document, Lane
from worker.blobs import BlobContents
from worker.embedding.backends import Vectors
from worker.embedding.pool import ModelPool
from worker.pipeline.ingest import Indexed, Work, ingest
from worker.pipeline.ports import Ports
from worker.store.chunks import QdrantStore
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames, open_collection
from worker.store.ledger import QdrantLedger
from worker.store.schema import fingerprint
from worker.text.parts import (
    INSIDE,
    Chunk,
    ExtractedDocument,
    PreparedDocument,
    Segment,
    SegmentStart,
    SizedText,
    UnchangedContent,
)
from worker.text.words.bm25 import SparseEncoder

INGESTQ: Final = "ingestq"
LANGCHAIN_CHARACTERS: Final = 1000
LLAMA_INDEX_TOKENS: Final = 1024
OVERLAP: Final = 200
DOCUMENTS_AT_ONCE: Final = 8

Split = Callable[[str], list[str]]


class ContextForm(StrEnum):
    """How much of the context of a chunk is indexed with it."""

    FULL = "full"
    TITLE = "title"
    NONE = "none"

    def of(self, context: str) -> str:
        match self:
            case ContextForm.FULL:
                return context
            case ContextForm.TITLE:
                return context.partition(INSIDE)[0]
            case ContextForm.NONE:
                return ""


def langchain() -> Split:
    """Return LangChain's recursive splitter, with the sizes of its tutorials."""
    splitters = importlib.import_module("langchain_text_splitters")
    splitter = splitters.RecursiveCharacterTextSplitter(
        chunk_size=LANGCHAIN_CHARACTERS, chunk_overlap=OVERLAP
    )
    return cast(Split, splitter.split_text)


def llama_index() -> Split:
    """Return LlamaIndex's sentence splitter with its defaults."""
    parsers = importlib.import_module("llama_index.core.node_parser")
    splitter = parsers.SentenceSplitter(chunk_size=LLAMA_INDEX_TOKENS, chunk_overlap=OVERLAP)
    return cast(Split, splitter.split_text)


CONTENDERS: Final[dict[str, Callable[[], Split | None]]] = {
    INGESTQ: lambda: None,
    f"LangChain, {LANGCHAIN_CHARACTERS}/{OVERLAP} characters": langchain,
    f"LlamaIndex, {LLAMA_INDEX_TOKENS}/{OVERLAP} tokens": llama_index,
}


@dataclass
class ContenderModel:
    """A `worker.pipeline.ports.Model` that chunks with ``split``, or as ingestq does without it.

    It counts the chunks and their tokens, before the model cuts off what it does not read.
    """

    pool: ModelPool
    tokenizer: Tokenizer
    split: Split | None
    context: ContextForm = ContextForm.FULL
    chunks: int = 0
    tokens: int = 0
    words: SparseEncoder = field(default_factory=SparseEncoder)

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument | UnchangedContent:
        if self.split is None:
            prepared = await self.pool.prepare(lane, document, known_hash)
            assert isinstance(prepared, PreparedDocument)
            return self._in_context(prepared)
        assert document.text is not None
        texts = await asyncio.to_thread(self.split, document.text)
        longest = self.pool.info.max_tokens
        chunks = [Chunk(text, "", min(self._count(text), longest)) for text in texts]
        digest = blake2b(document.text.encode()).hexdigest()
        return PreparedDocument(digest, None, None, Segment.of(chunks, self.words.document))

    def _in_context(self, prepared: PreparedDocument) -> PreparedDocument:
        """Return ``prepared`` with its contexts in the form to be tried."""
        if self.context is ContextForm.FULL:
            return prepared
        chunks = [
            msgspec.structs.replace(chunk, context=self.context.of(chunk.context))
            for chunk in prepared.first.chunks
        ]
        first = Segment.of(chunks, self.words.document)
        return msgspec.structs.replace(prepared, first=first)

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment:
        return await self.pool.prepare_rest(lane, document, rest)

    async def prepare_stored(
        self, lane: Lane, document: Document, stored: ExtractedDocument
    ) -> PreparedDocument:
        return await self.pool.prepare_stored(lane, document, stored)

    async def embed(self, lane: Lane, texts: Sequence[SizedText]) -> Vectors:
        self.chunks += len(texts)
        self.tokens += sum(self._count(text.text) for text in texts)
        return await self.pool.embed(lane, texts)

    def _count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))


def open_tokenizer(folder: Path) -> Tokenizer:
    """Return the model's tokenizer, which cuts off nothing."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


async def index(
    qdrant: Qdrant, name: str, model: ContenderModel, documents: Sequence[Document]
) -> CollectionNames:
    """Index ``documents`` in a new collection called ``name``, and return its names."""
    made_with = fingerprint(model.pool.info)
    names = await open_collection(qdrant, name, made_with)
    ports = Ports(
        model,
        QdrantStore(qdrant, names.chunks, made_with.layout),
        QdrantLedger(qdrant, names.ledger),
        BlobContents(),
    )
    free = asyncio.Semaphore(DOCUMENTS_AT_ONCE)

    async def one(document: Document) -> None:
        async with free:
            outcome = await ingest(Work(document, None, attempt=1), ports, lambda _, __: None)
            assert isinstance(outcome, Indexed), f"{document.doc_id}: {outcome}"

    async with asyncio.TaskGroup() as group:
        for document in documents:
            group.create_task(one(document))
    return names


async def remove(qdrant: Qdrant, names: CollectionNames) -> None:
    """Delete a collection."""
    await qdrant.ask(lambda client: client.delete_collection(names.chunks))
    await qdrant.ask(lambda client: client.delete_collection(names.ledger))
