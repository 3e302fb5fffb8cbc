"""Loads the user's own code that a setting names, as ``package.module:function``."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from ingestq.core.errors import UsageError, in_one_line


def load_named(what: str, name: str) -> Any:
    """Import and return what ``name`` names; ``what`` is what messages call it. Blocks.

    Raises UsageError if the name is not well-formed, or cannot be imported.
    """
    module, _, attributes = name.partition(":")
    if not module or not attributes:
        raise UsageError(f"{what} is {name!r}: write it as package.module:function")
    try:
        found: Any = import_module(module)
        for part in attributes.split("."):
            found = getattr(found, part)
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        raise UsageError(
            f"{what} {name!r} cannot be imported ({in_one_line(error)}); modules are also looked "
            "for in the working directory"
        ) from error
    return found


def import_from(folder: Path) -> None:
    """Add ``folder`` to the folders from which modules are imported."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
