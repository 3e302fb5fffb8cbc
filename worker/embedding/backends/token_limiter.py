"""Limits the tokens that are sent to an endpoint in a minute."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

TOKENS_PER_BYTE: Final = 0.25
"""Of English text, with most tokenizers."""
PERIOD_SECONDS: Final = 60.0


class TokenLimiter:
    """Delays requests so that at most ``per_minute`` tokens are sent in a minute; None is no limit.

    An endpoint says only in its answer how many tokens a request had. Before, they are estimated
    from the length of the texts and from what earlier answers said.
    """

    def __init__(self, per_minute: int | None) -> None:
        self._limit = per_minute
        self._limiter = None if per_minute is None else _limiter(per_minute)
        self._tokens_per_byte = TOKENS_PER_BYTE

    async def wait_for(self, texts: Sequence[str]) -> None:
        """Wait until ``texts`` may be sent; if they exceed the limit alone, for a whole minute."""
        if self._limiter is None or self._limit is None:
            return
        tokens = self._tokens_per_byte * _size(texts)
        await self._limiter.acquire(min(max(tokens, 1.0), self._limit))

    def note(self, texts: Sequence[str], tokens: int) -> None:
        """Note that ``texts`` had so many tokens."""
        if (size := _size(texts)) and tokens > 0:
            self._tokens_per_byte = tokens / size


def _limiter(per_minute: int) -> "AsyncLimiter":
    # Imported here, because few endpoints need it.
    from aiolimiter import AsyncLimiter

    return AsyncLimiter(per_minute, PERIOD_SECONDS)


def _size(texts: Sequence[str]) -> int:
    return sum(len(text.encode(errors="replace")) for text in texts)
