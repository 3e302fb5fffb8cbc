"""One request, or several that ask for a part of it each."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from broker.errors import StoreRejected, StoreTooSlow

T = TypeVar("T")


async def in_parts(
    items: Sequence[T],
    ask: Callable[[Sequence[T]], Awaitable[object]],
    name: Callable[[T], str],
) -> None:
    """Ask for ``items``; for one half after the other, if Qdrant refuses or cannot do all at once.

    Ends at the first item that is refused by itself, after few requests. Raises why, with the
    ``name`` of the item; those before it are done.
    """
    try:
        await ask(items)
    except (StoreRejected, StoreTooSlow) as error:
        if len(items) > 1:
            half = len(items) // 2
            await in_parts(items[:half], ask, name)
            await in_parts(items[half:], ask, name)
        elif isinstance(error, StoreRejected):
            raise type(error)(f"{name(items[0])}: {error}") from error
        else:
            raise
