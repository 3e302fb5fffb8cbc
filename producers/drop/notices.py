"""What is left out of a watched folder is said once, not at every scan."""

from typing import Final

import structlog

from broker import events

log = structlog.get_logger()

MOST_REMEMBERED: Final = 10_000
"""Beyond that, some are said again."""


class Notices:
    """Logs what is left out, and why; again only if the reason is another one."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def left_out(self, path: str, reason: str) -> None:
        """The file at ``path``, or what it was named by, is not taken."""
        if self._said.get(path) == reason:
            return
        if len(self._said) >= MOST_REMEMBERED:
            self._said.clear()
        self._said[path] = reason
        log.warning(events.DROP_LEFT_OUT, path=path, reason=reason)

    def taken(self, path: str) -> None:
        """It is taken: what was wrong with it is over."""
        self._said.pop(path, None)
