"""A FastAPI service that indexes notes in the background.

    REDIS_URL=redis://localhost:6379/0 uvicorn examples.fastapi_service:app

``POST /notes`` responds as soon as the note is on the queue. Workers (``ingestq worker``) on the
same Redis do the rest, and ``GET /notes/progress/{id}`` shows their progress.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel

from ingestq import IngestClient, QueueFull


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open one client for all requests, for as long as the service runs."""
    url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
    async with IngestClient.connect(url) as client:
        app.state.ingest = client
        yield


app = FastAPI(lifespan=lifespan)


def ingest_client(request: Request) -> IngestClient:
    """Return the client of the service."""
    client: IngestClient = request.app.state.ingest
    return client


Ingest = Annotated[IngestClient, Depends(ingest_client)]


class Note(BaseModel):
    """A note that a user of the service wrote."""

    id: str
    author: str
    text: str


@app.post("/notes", status_code=202)
async def add(note: Note, ingest: Ingest) -> dict[str, str]:
    """Queue a note. It replaces the note with the same id, and runs before bulk work."""
    try:
        receipt = await ingest.submit(
            note.id,
            source="notes",
            text=note.text,
            tenant=note.author,
            metadata={"author": note.author},
        )
    except QueueFull as full:
        seconds = str(round(full.retry_after) or 1)
        raise HTTPException(503, "too busy", {"Retry-After": seconds}) from full
    return {"progress": f"/notes/progress/{receipt.submission}"}


@app.get("/notes/progress/{submission}")
async def progress(submission: str, ingest: Ingest) -> dict[str, Any]:
    """Return the stage of a note: waiting, reading, embedding or done."""
    status = await ingest.status(submission)
    if not status.accepted:
        raise HTTPException(404, "there is no such note")
    failed = await ingest.failed_documents(submission)
    return {"stage": status.stage, "why_not": [document.reason for document in failed]}
