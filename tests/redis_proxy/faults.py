"""The faults that a test can arm."""

import asyncio
from dataclasses import dataclass, field
from enum import Enum, auto

from tests.redis_proxy.commands import Predicate


class Stage(Enum):
    """The stage at which a fault strikes a request."""

    REQUEST = auto()  # the server has not seen it
    REPLY = auto()  # the server has replied; the client has not seen the reply


@dataclass
class Fault:
    """Strikes ``times`` requests that match, from the ``nth`` on.

    ``seen`` counts the requests that matched, ``fired`` those that were struck.
    """

    matches: Predicate
    stage: Stage
    nth: int = 1
    times: int = 1
    seen: int = field(default=0, init=False)
    fired: int = field(default=0, init=False)
    struck: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set when the fault has struck: both connections are closed, or the message is being held.
    When a client notices a drop, ``fired`` has counted it."""

    def __post_init__(self) -> None:
        if self.nth < 1 or self.times < 1:
            raise ValueError(f"nth={self.nth} and times={self.times} count from 1")

    @property
    def spent(self) -> bool:
        """True if no further request will be struck."""
        return self.seen >= self.nth + self.times - 1

    def count(self) -> bool:
        """Count a request that matched; return whether to strike it."""
        strikes = self.seen >= self.nth - 1 and not self.spent
        self.seen += 1
        return strikes

    def strike(self) -> None:
        """Record that a request was struck."""
        self.fired += 1
        self.struck.set()


class Disconnect(Fault):
    """Closes the request's connection, on both sides of the proxy."""


@dataclass
class Hold(Fault):
    """Keeps a request or its reply until `release`."""

    done: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set when the server has replied to the request and the reply was passed on; if the client
    has gone away, it was discarded."""
    _released: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def release(self) -> None:
        """Let the message pass. A hold that is released beforehand holds nothing."""
        self._released.set()

    async def wait(self) -> None:
        """Wait until the test has released the message."""
        self.strike()
        await self._released.wait()
