"""Divides the file descriptors of a process: connections of clients get what the rest leaves."""

import resource
from contextlib import suppress
from typing import Final

from ingestq.core.errors import UsageError

WANTED: Final = (65_536, 10_240)
"""Limits to ask for, the first that the system allows: macOS refuses more than it has files for,
though its hard limit is unlimited. Not the hard limit itself, which may be a billion: some programs
loop over all descriptors that they might have."""
RESERVED: Final = 96
"""Descriptors for everything but connections: `ingestq up` has about 50 open at work."""
RESERVED_PER_PROCESS: Final = 8
"""Descriptors for each process of the pools: pipes, and documents in work."""
MIN_CONNECTIONS: Final = 16


def raise_limit() -> None:
    """Raise the soft limit of open files as far as this user may, which is often 20 times more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in WANTED:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft == resource.RLIM_INFINITY or soft >= limit:
            return
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return


def places_for_connections(wanted: int, pool_size: int) -> int:
    """Return ``wanted``, or the number of connections for which there are enough descriptors.

    Raises UsageError if there are hardly any.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    reserved = RESERVED + RESERVED_PER_PROCESS * pool_size
    if soft - reserved < MIN_CONNECTIONS:
        raise UsageError(
            f"this process may open only {soft} files, too few for the API; raise the limit to "
            f"{reserved + MIN_CONNECTIONS} or more, for example with `ulimit -n 4096`"
        )
    return min(wanted, soft - reserved)
