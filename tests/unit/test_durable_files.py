"""Files are replaced whole, and nothing of a killed process stays beside them."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from ingestq.core.durable_files import replacing

KILLED: Final = """
import contextlib, os, signal, sys
from pathlib import Path
from ingestq.core.durable_files import replacing

with contextlib.ExitStack() as drafts:
    for name in sys.argv[1:]:
        drafts.enter_context(replacing(Path(name))).write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_draft_of_a_killed_process_is_removed_by_the_next_one(tmp_path: Path) -> None:
    export, other = tmp_path / "backup.jsonl", tmp_path / "backup.jsonl.gz"
    killed = subprocess.run([sys.executable, "-c", KILLED, export, other], check=False)
    assert killed.returncode == -signal.SIGKILL
    abandoned = names_in(tmp_path)
    assert len(abandoned) == 2
    with replacing(export) as first:
        [of_other] = abandoned & names_in(tmp_path)
        assert of_other.startswith(f".{other.name}.")
        with replacing(export) as second:
            second.write(b"second")
        first.write(b"first")
    assert names_in(tmp_path) == {export.name, of_other}
    assert export.read_bytes() == b"first", "the draft of a running process stays"
