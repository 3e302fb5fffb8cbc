"""Bisection of failed batches: one bad item fails alone, and the others succeed without it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def bisect_on_failure(
    items: Sequence[T],
    attempt: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
    may_be_one_item: Callable[[Exception], bool],
) -> AsyncIterator[tuple[T, R | Exception]]:
    """Yield each of ``items`` in order, with its result or its error, as soon as that is known.

    ``attempt`` is called with all items and returns their results in order. If it raises an error
    that ``may_be_one_item`` says one of them may have caused, it is called with the one half and
    then with the other, and so on: of n items of which b are bad, in at most 1 + 2·b·⌈log2 n⌉
    calls. Any other error is that of every item in the call.

    A caller that stops iterating stops the calls, too.
    """
    groups = [items] if items else []
    while groups:
        group = groups.pop()
        try:
            results = list(zip(group, await attempt(group), strict=True))
        except Exception as error:
            if len(group) > 1 and may_be_one_item(error):
                half = len(group) // 2
                groups += [group[half:], group[:half]]
                continue
            for item in group:
                yield item, error
        else:
            for item, result in results:
                yield item, result
