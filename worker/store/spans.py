"""Records requests to Qdrant as spans.

Requests of several documents go in groups, so a span lasts from when a document asks for something
until the group with its request has been answered.
"""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from ingestq.core.tracing import span


class _Named(Protocol):
    """A store of one collection."""

    @property
    def _name(self) -> str: ...


P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=_Named)
Method = Callable[Concatenate[S, P], Coroutine[Any, Any, T]]


def in_span(operation: str) -> Callable[[Method[S, P, T]], Method[S, P, T]]:
    """Record each call of a store's method as the ``operation`` on its collection."""

    def decorate(method: Method[S, P, T]) -> Method[S, P, T]:
        @wraps(method)
        async def recorded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
            attributes = {
                "db.system.name": "qdrant",
                "db.operation.name": operation,
                "db.collection.name": self._name,
            }
            with span(f"{operation} {self._name}", "client", attributes):
                return await method(self, *args, **kwargs)

        return recorded

    return decorate
