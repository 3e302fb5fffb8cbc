"""The connection of one client to the server, in which requests are paired with replies."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from tests.redis_proxy.commands import Words
from tests.redis_proxy.faults import Disconnect, Fault, Hold, Stage
from tests.redis_proxy.peer import Peer
from tests.redis_proxy.resp import PUSH


class ScriptNotLoaded(Exception):
    """A fault counted a request to run a script that is not loaded."""


@dataclass(frozen=True)
class _Exchange:
    """A request in transit."""

    words: Words
    awaited: bool
    """True if it counts for a fault that is not spent."""
    faults: Sequence[Fault]
    """The faults that strike it."""

    def at(self, stage: Stage) -> list[Fault]:
        return [fault for fault in self.faults if fault.stage is stage]


class Connection:
    """Passes requests one way and replies the other, until either side closes."""

    def __init__(self, client: Peer, server: Peer, armed: Sequence[Fault]) -> None:
        self._client = client
        self._server = server
        self._armed = armed
        self._unanswered: asyncio.Queue[_Exchange] = asyncio.Queue()

    async def run(self) -> None:
        """Run until both sides are closed.

        Raises an ExceptionGroup of ProtocolError or ScriptNotLoaded.
        """
        try:
            async with asyncio.TaskGroup() as pumps:
                requests = pumps.create_task(self._pass_requests())
                await self._pass_replies()
                requests.cancel()
            await self._client.close()
            await self._server.close()
        finally:
            self._client.reset()
            self._server.reset()

    async def _pass_requests(self) -> None:
        while (request := await self._client.request()) is not None:
            exchange = self._count(request.words)
            for fault in exchange.at(Stage.REQUEST):
                if isinstance(fault, Hold):
                    await fault.wait()
                elif isinstance(fault, Disconnect):
                    await self._unanswered.join()
                    self._drop(fault)
                    return
            self._unanswered.put_nowait(exchange)
            self._server.send(request.raw)
            await self._server.drain()
            if any(isinstance(fault, Disconnect) for fault in exchange.at(Stage.REPLY)):
                return  # and never read what comes after it
        self._server.end()

    async def _pass_replies(self) -> None:
        while (reply := await self._server.reply()) is not None:
            if reply.startswith(PUSH) or self._unanswered.empty():
                self._client.send(reply)
                continue
            exchange = self._unanswered.get_nowait()
            if exchange.awaited and reply.startswith(b"-NOSCRIPT"):
                raise ScriptNotLoaded(b" ".join(exchange.words[:2]).decode())
            for fault in exchange.at(Stage.REPLY):
                if isinstance(fault, Hold):
                    await fault.wait()
                elif isinstance(fault, Disconnect):
                    self._drop(fault)
                    return
            self._client.send(reply)
            self._unanswered.task_done()
            for fault in exchange.faults:
                if isinstance(fault, Hold):
                    fault.done.set()

    def _count(self, words: Words) -> _Exchange:
        matching = [fault for fault in self._armed if fault.matches(words)]
        awaited = not all(fault.spent for fault in matching)
        return _Exchange(words, awaited, [fault for fault in matching if fault.count()])

    def _drop(self, fault: Disconnect) -> None:
        self._client.reset()
        self._server.reset()
        fault.strike()
