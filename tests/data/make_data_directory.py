"""Writes a small data directory of this version: ``python -m tests.data.make_data_directory``.

It becomes ``data-directory-FORMAT-VERSION.tar.xz`` beside this file, and later versions are tested
with it (tests/faults/test_older_data.py). It holds documents with warnings, a stale and a deleted
one, a dead letter, and jobs that wait, one of them with a blob. Sockets, locks and logs are left
out: they mean nothing once no process runs.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from ingestq import __version__
from ingestq.core.data_directory import FORMAT

FOLDER: Final = Path(__file__).parent
NOTES: Final = {
    "tide.md": "# Tides\n\nThe tide rises twice a day, and the harbour empties twice.\n",
    "geese.md": "# Geese\n\nGeese leave the lake when the first frost comes.\n",
    "bread.md": "# Bread\n\nBread dough rests under a damp cloth.\n",
    "empty.md": "",
}
"""The files of the source ``notes``, as they were indexed."""
STALE: Final = "bread.md"
"""The note whose newest version is rejected: `UNREADABLE`."""
UNREADABLE: Final = bytes(range(256)) * 8
DELETED: Final = {"lamps.md": "# Lamps\n\nThe lamps on the pier are lit at dusk.\n"}
"""A note that was indexed and deleted again."""
WAITING: Final = {
    "small": "A text that waits in the queue.",
    "large": "A long text that waits in the blob store. " * 2000,
}
"""Texts that are queued and not indexed."""
LEFT_OUT: Final = (".lock", ".sock", ".log", ".pid")


def write_notes(folder: Path, notes: dict[str, str]) -> None:
    """Write ``notes`` into ``folder``."""
    folder.mkdir(exist_ok=True)
    for name, text in notes.items():
        (folder / name).write_text(text, encoding="utf-8")


def lines() -> str:
    """Return `WAITING` as JSON Lines."""
    return "".join(
        json.dumps({"doc_id": doc_id, "source": "erp", "text": text}) + "\n"
        for doc_id, text in WAITING.items()
    )


def main() -> None:
    """Write the archive."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        notes = folder / "notes"

        def ingestq(*arguments: str, stdin: str = "", code: int = 0) -> None:
            command: list[str | Path] = [Path(sys.executable).parent / "ingestq", *arguments]
            inherited = {k: v for k, v in os.environ.items() if not k.startswith("INGESTQ_")}
            ended = subprocess.run(
                command, cwd=folder, env=inherited, input=stdin, text=True, check=False
            )
            assert ended.returncode == code, ended

        write_notes(notes, NOTES | DELETED)
        ingestq("run", "notes", "--source", "notes")
        for name in DELETED:
            (notes / name).unlink()
        (notes / STALE).write_bytes(UNREADABLE)
        ingestq("run", "notes", "--source", "notes", code=1)
        ingestq("add", "-", stdin=lines())
        archive = FOLDER / f"data-directory-{FORMAT}-{__version__}.tar.xz"
        with tarfile.open(archive, "w:xz") as tar:
            tar.add(folder / ".ingestq", ".ingestq", filter=_kept)
    sys.stderr.write(f"wrote {archive} ({archive.stat().st_size:,} bytes)\n")


def _kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if member.name.endswith(LEFT_OUT):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
