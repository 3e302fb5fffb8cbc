"""Bisects failed batches, so that a bad item fails alone and the others succeed."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def bisect_on_failure(
    items: Sequence[T],
    attempt: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
    should_split: Callable[[Exception], bool],
) -> AsyncIterator[tuple[T, R | Exception]]:
    """Yield each of ``items`` in order, with its result or its error, as soon as it is known.

    ``attempt`` is called with all items and returns their results in order. If it raises an error
    for which ``should_split`` is true, because a single item may have caused it, ``attempt`` is
    called with one half and then with the other, and so on. For n items of which b are bad, that
    takes at most 1 + 2·b·⌈log2 n⌉ calls. Any other error is yielded for every item of the call.

    No further calls are made when the caller stops iterating.
    """
    groups = [items] if items else []
    while groups:
        group = groups.pop()
        try:
            results = list(zip(group, await attempt(group), strict=True))
        except Exception as error:
            if len(group) > 1 and should_split(error):
                half = len(group) // 2
                groups += [group[half:], group[:half]]
                continue
            for item in group:
                yield item, error
        else:
            for item, result in results:
                yield item, result
