"""The signals that stop a process, and what they do before and after its event loop runs.

Loads nothing but the standard library, because it comes first. While the loop runs, see
`ingestq.app.services.stop_signals`.
"""

import signal
from types import FrameType
from typing import Final

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupt_once() -> None:
    """Let the first stop signal raise KeyboardInterrupt, and ignore all after it.

    Signals that this process was started to ignore stay ignored, as SIGHUP by nohup.
    """
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def ignore_stop_signals() -> None:
    """Ignore stop signals from now on: the process is about to end."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(_: int, __: FrameType | None) -> None:
    ignore_stop_signals()
    raise KeyboardInterrupt
