"""Checks the paths from which documents are to be read: no walk begins where it must not go."""

from collections.abc import Iterable
from pathlib import Path

from ingestq.app.settings import Settings
from ingestq.core.errors import UsageError
from producers.files.off_limits import OffLimits


def off_limits_of(settings: Settings) -> OffLimits:
    """Return where walks must not go: data, cache and blobs of this ingestq, and the kernel."""
    return OffLimits(settings.own_folders)


def checked_paths(paths: Iterable[Path], settings: Settings) -> OffLimits:
    """Return what is off limits for walks that begin at ``paths``. Blocks.

    Raises UsageError, which names the path, if one of them is.
    """
    off_limits = off_limits_of(settings)
    for path in paths:
        reason = off_limits.reason_against(path)
        if reason is not None:
            raise UsageError(f"{path} cannot be indexed: {reason}")
    return off_limits
