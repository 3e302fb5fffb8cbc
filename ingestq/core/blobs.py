"""Names of blobs: ``SPACE/TIME-RANDOM``."""

import re
import uuid
from typing import Final

QUEUE_WITHIN_MS: Final = 6 * 3600 * 1000
"""An object has to be on the queue so long after it was named: Redis refuses it later."""
LEFT_OVER_MS: Final = 2 * QUEUE_WITHIN_MS
"""An object that nobody names is removed when it is older. The rest is for a clock that is put
back."""

_NAME: Final = re.compile(r"[0-9a-f]{32}/[0-9a-f]{16}-[0-9a-f]{32}")


def new_space() -> str:
    """A space that no other queue has."""
    return uuid.uuid4().hex


def new_name(space: str, now_us: int) -> str:
    """A name that no other object has; ``now_us`` is Redis time in microseconds."""
    return f"{space}/{now_us:016x}-{uuid.uuid4().hex}"


def is_name(text: str) -> bool:
    """Whether an object may be called so; such a name leads nowhere but into a blob store."""
    return _NAME.fullmatch(text) is not None


def named_ms(name: str) -> int:
    """Redis time in ms when an object was named."""
    return int(name.partition("/")[2].partition("-")[0], 16) // 1000
