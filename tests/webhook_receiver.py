"""A receiver of webhooks, which checks every signature with the package standardwebhooks."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from standardwebhooks import Webhook, WebhookVerificationError

from ingestq.core.webhooks import WebhookEvent, WebhookTarget
from tests.waiting import SECONDS, eventually

SECRET: Final = "whsec_" + "c2lnbmluZyBzZWNyZXQgb2YgdGhlIHRlc3RzLi4u"
OTHER_SECRET: Final = "whsec_" + "YW5vdGhlciBzZWNyZXQsIGFmdGVyIGEgcm90YXRpb24="
OK: Final = 204
UNAUTHORIZED: Final = 401


@dataclass(frozen=True)
class Received:
    """A message that came with a valid signature."""

    headers: Mapping[str, str]
    message: Any

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = self.message["data"]
        return data


@dataclass
class WebhookReceiver:
    """What has come so far, and how to answer: with each of ``answers``, then with 204.

    ``headers`` are sent with every answer. Nothing is answered unless ``answering`` is set.
    """

    port: int = 0
    secret: str = SECRET
    answers: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    received: list[Received] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks/Xyzzy42"

    def target(self, name: str = "ours", *events: WebhookEvent, secret: str = "") -> WebhookTarget:
        """Return the target that leads here."""
        return WebhookTarget(
            name, self.url, tuple((secret or self.secret).split()), events or tuple(WebhookEvent)
        )

    async def messages(self, count: int, seconds: float = SECONDS) -> list[Received]:
        """Wait until ``count`` messages have come; return all."""

        async def received() -> list[Received]:
            return self.received

        return await eventually(received, lambda found: len(found) >= count, seconds)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            fields = (line.partition(":") for line in head[1:] if line)
            headers = {name.lower(): value.strip() for name, _, value in fields}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.requests.append(head[0])
            try:
                message = Webhook(self.secret).verify(body, dict(headers))
            except WebhookVerificationError:
                self.answers.insert(0, UNAUTHORIZED)
            else:
                self.received.append(Received(headers, message))
            await self.answering.wait()
            status = self.answers.pop(0) if self.answers else OK
            more = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
            writer.write(f"HTTP/1.1 {status} Whatever\r\n{more}content-length: 0\r\n\r\n".encode())
            await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def webhook_receiver(
    port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[WebhookReceiver]:
    """Run a receiver while inside, at a ``port`` of its own by default."""
    receiver = WebhookReceiver()
    receiver.answering.set()
    server = await asyncio.start_server(receiver.answer, "127.0.0.1", port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        receiver.answering.set()
        server.close()
        await server.wait_closed()
