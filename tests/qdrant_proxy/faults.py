"""Faults that a test plans for the next requests."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.responses import JSONResponse, PlainTextResponse, Response

from tests.qdrant_proxy.answers import error_response
from tests.qdrant_proxy.holds import Matches

WAIT_TIMEOUT: Final = {"operation_id": 1, "status": "wait_timeout"}


@dataclass(frozen=True)
class Answered:
    """The request is answered with what ``answer`` makes of its body, and not carried out."""

    answer: Callable[[Any], Response]


@dataclass(frozen=True)
class Dropped:
    """The connection is closed without an answer, before or ``after`` the work is done."""

    after: bool


Fault = Answered | Dropped


@dataclass
class Faults:
    """The planned faults. A test plans them while another thread serves.

    ``path_contains`` is searched for in ``METHOD /path?query``, so it can name a method too. Each
    planned fault applies once, in order; a ``standing`` fault applies to every request that
    matches.
    """

    standing: tuple[Matches, Response] | None = None

    _planned: list[tuple[str, Fault]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer_next(
        self,
        n: int,
        status: int,
        body: object | None = None,
        headers: Mapping[str, str] | None = None,
        path_contains: str = "",
    ) -> None:
        """Answer the next ``n`` requests with ``status``; a ``body`` of type str is sent as is."""
        if body is None:
            response: Response = error_response(status, f"planned by a test: {status}")
        else:
            kind = PlainTextResponse if isinstance(body, str) else JSONResponse
            response = kind(body, status)
        response.headers.update(headers or {})
        self._plan(n, Answered(lambda _: response), path_contains)

    def drop_next(self, n: int, after: bool, path_contains: str = "") -> None:
        """Close the connection of the next ``n`` requests without answering."""
        self._plan(n, Dropped(after), path_contains)

    def wait_timeout_next(self, n: int, path_contains: str = "wait=true") -> None:
        """Answer the next ``n`` writes as accepted but not applied, and do not apply them."""
        self._plan(n, Answered(_accepted), path_contains)

    @property
    def left(self) -> int:
        """The number of planned faults that have not happened yet."""
        with self._lock:
            return len(self._planned)

    def meet(self, request: str, body: Any) -> Fault | None:
        """Return and use up the fault for ``request``."""
        with self._lock:
            if self.standing is not None:
                matches, response = self.standing
                if matches(request, body):
                    return Answered(lambda _: response)
            for i, (path_contains, fault) in enumerate(self._planned):
                if path_contains in request:
                    del self._planned[i]
                    return fault
        return None

    def any(self) -> bool:
        """Return True if a fault is planned or standing."""
        return self.standing is not None or self.left > 0

    def _plan(self, n: int, fault: Fault, path_contains: str) -> None:
        with self._lock:
            self._planned += [(path_contains, fault)] * n


def _accepted(body: Any) -> Response:
    """Answer that a write, or each of a batch, is accepted and will be applied later."""
    batch = body.get("operations")
    result = WAIT_TIMEOUT if batch is None else [WAIT_TIMEOUT] * len(batch)
    return JSONResponse({"result": result, "status": "ok", "time": 0.0})
