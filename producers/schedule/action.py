"""What a scheduled entry may do."""

from enum import StrEnum


class Action(StrEnum):
    """What a run does.

    ``rescan`` queues what its source has, and removes what it does not have any more; ``reindex``
    builds the collection with the settings as they are; ``verify`` compares and repairs.
    """

    RESCAN = "rescan"
    REINDEX = "reindex"
    VERIFY = "verify"
