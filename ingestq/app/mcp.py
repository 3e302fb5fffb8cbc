"""Serves the tools of `ingestq.api.mcp` to the program that started this process, on stdio.

Search works while Redis is away, and the queue while Qdrant is: each is opened when a tool first
needs it, and a tool that cannot have it says why.
"""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ingestq.api.app import ApiConfig, Services, create_app, create_search_app
from ingestq.api.mcp import (
    Answer,
    Arguments,
    Refusal,
    Routes,
    Tool,
    make_server,
    search_parameters,
    search_tool,
    status_tool,
    submit_tool,
)
from ingestq.api.parameters import Collections
from ingestq.app.collections import IndexReader
from ingestq.app.composition import Broker, open_broker
from ingestq.app.migration import has_index
from ingestq.app.on_demand import OnDemand
from ingestq.app.search import DocumentLookup, QdrantOnDemand, SearchService
from ingestq.app.settings import Settings
from ingestq.app.sources import off_limits_of
from ingestq.broker.revoked_sessions import RevokedSessions
from ingestq.core.documents import Document, Lane
from ingestq.core.errors import UsageError
from ingestq.core.results import FailedDocument
from producers.files.walk import ReadOptions, ScanRecord, observe

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

ONE_FILE: Final = "name one file, with its whole path"


@dataclass(frozen=True)
class SubmitRights:
    """What an assistant may queue: texts, and the files in some folders. By default nothing."""

    texts: bool = False
    folders: tuple[Path, ...] = ()


@asynccontextmanager
async def open_mcp(settings: Settings, rights: SubmitRights) -> "AsyncIterator[Server[Any]]":
    """Yield a server of the protocol; what its tools have opened is closed on leaving.

    Raises UsageError if a folder of ``rights`` is none or may not be indexed.
    """
    folders = await asyncio.to_thread(_checked, rights.folders, settings)
    collections = Collections(settings.collections)
    async with AsyncExitStack() as closing:
        qdrant = QdrantOnDemand(settings, closing)
        search = create_search_app(SearchService(settings, closing, qdrant), collections)
        brokers = OnDemand(partial(open_broker, settings), closing, name="Redis")
        queue = _QueueRoutes(settings, qdrant, brokers)

        async def searching() -> Routes:
            if settings.qdrant_url is None and not await asyncio.to_thread(
                has_index, settings.data_dir
            ):
                raise Refusal(
                    f"there is no index in {settings.data_dir} yet; index something with `ingestq "
                    "run`, or set INGESTQ_DATA_DIR to where the index is"
                )
            return Routes(search)

        tools = [
            search_tool(search_parameters(search.openapi()), searching),
            status_tool(queue.opened),
        ]
        if rights.texts:
            tools.append(submit_tool(collections, queue.opened))
        if folders:
            tools.append(_submit_file_tool(brokers, folders, settings))
        yield make_server(tools)


class _QueueRoutes:
    """The routes of the API, which need Redis: made when it was opened."""

    def __init__(
        self, settings: Settings, qdrant: QdrantOnDemand, brokers: OnDemand[Broker]
    ) -> None:
        self._settings = settings
        self._qdrant = qdrant
        self._brokers = brokers
        self._routes: Routes | None = None

    async def opened(self) -> Routes:
        """Return the routes. Raises what `open_broker` raises; the next call tries again."""
        broker = await self._brokers.opened()
        if self._routes is None:
            services = Services(
                broker.client,
                broker.dead_letters,
                RevokedSessions(broker.redis, broker.config),
                index=DocumentLookup(self._qdrant),
                overview=IndexReader(self._qdrant, self._settings.collections),
            )
            config = ApiConfig(
                self._settings.max_document_bytes, collections=self._settings.collections
            )
            self._routes = Routes(create_app(services, config))
        return self._routes


def _checked(folders: Sequence[Path], settings: Settings) -> tuple[Path, ...]:
    """Return the real paths of ``folders``. Blocks. Raises UsageError."""
    off_limits = off_limits_of(settings)
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"--submit-from {folder} is not a folder")
        reason = off_limits.reason_against(folder)
        if reason is not None:
            raise UsageError(f"--submit-from {folder}: {reason}")
    return tuple(Path(os.path.realpath(folder)) for folder in folders)


def _submit_file_tool(
    brokers: OnDemand[Broker], folders: Sequence[Path], settings: Settings
) -> Tool:
    off_limits = off_limits_of(settings)

    async def submit_file(arguments: Arguments) -> Answer:
        path, within = await asyncio.to_thread(_allowed, arguments["path"], folders)
        client = (await brokers.opened()).client
        found = observe([path], None, client.issue_version, ReadOptions(), ScanRecord(), off_limits)
        documents = [document async for document in found]
        if not documents:
            raise Refusal(f"{path} is not indexed: it is a temporary file, or one of ingestq's own")
        receipt = await client.submit_many(
            [_confined(document, within) for document in documents], lane=Lane.INTERACTIVE
        )
        return msgspec.structs.asdict(receipt) | {"doc_id": documents[0].doc_id}

    allowed = ", ".join(map(str, folders))
    path = {"type": "string", "minLength": 1, "description": f"The whole path, in {allowed}."}
    return Tool(
        "submit_file",
        "Index a file",
        f"Queue a file of this machine to be indexed, from {allowed}. Its id is its path. Returns "
        "once it is on the queue: ask `status` for the submission to see when it is indexed.",
        {
            "type": "object",
            "properties": {"path": path},
            "required": ["path"],
            "additionalProperties": False,
        },
        submit_file,
        read_only=False,
    )


def _allowed(text: str, folders: Sequence[Path]) -> tuple[Path, Path]:
    """Return the real path of a file, and the folder it lies in. Blocks. Raises `Refusal`."""
    try:
        path = Path(os.path.realpath(text))
        within = next((folder for folder in folders if path.is_relative_to(folder)), None)
        if within is None:
            allowed = ", ".join(map(str, folders))
            raise Refusal(f"{text!r} is outside of what may be submitted: {allowed}")
        if not Path(text).is_absolute() or not stat.S_ISREG(path.stat().st_mode):
            raise Refusal(f"{text!r} is no file; {ONE_FILE}")
    except OSError as error:
        raise Refusal(f"{text!r} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a character that no path has
        raise Refusal(f"{text!r} is no path; {ONE_FILE}") from error
    return path, within


def _confined(document: Document | FailedDocument, within: Path) -> Document:
    """Return the document of a file that a worker reads only if it still lies ``within``."""
    if isinstance(document, FailedDocument):
        raise Refusal(f"{document.doc_id}: {document.reason}")
    return msgspec.structs.replace(document, within=str(within))
