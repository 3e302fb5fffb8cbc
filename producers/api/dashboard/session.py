"""What a browser shows instead of the token, which it cannot send by itself."""

import hashlib
import hmac
import time
from dataclasses import dataclass
from typing import Final

COOKIE: Final = "ingestq_session"
SESSION_SECONDS: Final = 12 * 3600
PURPOSE: Final = b"ingestq dashboard session until "


@dataclass(frozen=True)
class Sessions:
    """Sessions of who knew ``token``.

    One is the time at which it ends (Unix time), and a digest of that which is keyed with the
    token. So it outlives this server, is good for all that have the token, and ends with it.
    """

    token: str

    def knows(self, token: str) -> bool:
        """Whether this is the token; how long that takes says nothing about it."""
        return hmac.compare_digest(token.encode(), self.token.encode())

    def new(self) -> str:
        """A session that begins now."""
        ends = str(int(time.time()) + SESSION_SECONDS)
        return f"{ends}.{self._digest(ends)}"

    def is_valid(self, session: str) -> bool:
        """Whether it was made here, or with the same token elsewhere, and has not ended."""
        ends, _, digest = session.partition(".")
        return (
            ends.isascii()
            and ends.isdecimal()
            and hmac.compare_digest(digest.encode(), self._digest(ends).encode())
            and time.time() < int(ends)
        )

    def _digest(self, ends: str) -> str:
        said = PURPOSE + ends.encode()
        return hmac.new(self.token.encode(), said, hashlib.sha256).hexdigest()
