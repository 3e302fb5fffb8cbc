"""Dead letters about files of a watched folder that are gone: nobody has to look at them.

A file may be gone before a worker comes to read it, and a worker cannot tell that from a folder
that it does not see. What is indexed of such a file is not decided here.
"""

import asyncio
from pathlib import Path

from broker.dead_letters import DeadLetters, LetterFilter
from broker.paths import text_to_path
from producers.drop.folder import DropFolder
from producers.drop.presence import Presence


async def forget_gone(letters: DeadLetters, folder: DropFolder, presence: Presence) -> int:
    """Purge the letters about files of ``folder`` that are gone; how many that were.

    Raises BrokerUnavailable while Redis cannot be used.
    """
    purged = 0
    wanted = LetterFilter(tenant=folder.tenant, collection=folder.collection or None)
    async for stored in letters.find(wanted):
        document = stored.document
        if document is None or document.path is None or not document.scanned:
            continue
        path = text_to_path(document.path)
        if path.is_relative_to(folder.path) and await asyncio.to_thread(_is_gone, path, presence):
            purged += await letters.purge([stored])
    return purged


def _is_gone(path: Path, presence: Presence) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return presence.check()
    except OSError:
        return False
    return False
