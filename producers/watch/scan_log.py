"""Logs what workers say of the scans of one folder or bucket, when that changes."""

from collections.abc import Sequence

import structlog

from ingestq.core import events

log = structlog.get_logger()


class ScanLog:
    """What was said of the scans of ``place`` so far; `ingestq status` shows it in full."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._warned = 0
        self._is_held_back = False

    def warned(self, documents: int) -> None:
        """Log how many ``documents`` could be read in part only."""
        if documents != self._warned:
            self._warned = documents
            log.warning(events.WATCH_WARNED, folder=self._place, documents=documents)

    def held_back(self, reasons: Sequence[str]) -> None:
        """Log when deletions begin and cease to be held back, for ``reasons``."""
        if reasons and not self._is_held_back:
            log.warning(events.WATCH_HELD_BACK, folder=self._place, reason=reasons[0])
        elif self._is_held_back and not reasons:
            log.info(events.WATCH_RELEASED, folder=self._place)
        self._is_held_back = bool(reasons)
