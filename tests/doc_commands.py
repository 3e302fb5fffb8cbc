"""Runs the commands of a page of the docs as a reader does: in one shell, block after block.

Blocks in ``sh`` are run. One in ``text`` that follows has lines that the output must have, anywhere
in a line; ``…`` in it stands for anything. One in ``json`` that follows has the fields that an
object in the output must have. Until the output is so, the block before is repeated, because a
program that it started before may need time. A block with a ``title`` is written to the file of
that name first. CONTRIBUTING.md says so to writers.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
FENCE: Final = re.compile(r"^```(\w+)(?: title=\"([\w.]+)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELLIPSIS: Final = "…"
SECONDS: Final = 240.0
"""Longer than a program of a page takes to start and to do its work, or to end, on a busy machine.
Only a page that is wrong takes so long."""
PAUSE_SECONDS: Final = 0.5
"""Between two runs of a block whose output is not there yet."""
START: Final = "set -uE -o pipefail; trap 'failed=1' ERR"
RUN: Final = "failed=0; . ./{0}.sh >{0}.out 2>&1 </dev/null; echo $? $failed"


@dataclass
class Block:
    """Commands, the files to write before them, and what must be in their output."""

    commands: str
    files: dict[str, str]
    lines: list[str] = field(default_factory=list)
    example: Any = None

    def missing(self, output: str) -> list[str]:
        """Return what the page shows, and ``output`` lacks."""
        missing = [line for line in self.lines if not re.search(_pattern(line), output)]
        if self.example and not any(has_fields(each, self.example) for each in _objects(output)):
            missing.append(json.dumps(self.example))
        return missing


def _pattern(line: str) -> str:
    return ".*".join(map(re.escape, line.split(ELLIPSIS)))


def _objects(output: str) -> Iterator[Any]:
    for line in output.splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def has_fields(printed: Any, shown: Any) -> bool:
    """Return whether ``printed`` has exactly the fields of ``shown``, at every depth.

    All elements of a list are to be as the first one of the list that is shown.
    """
    match printed, shown:
        case dict(), dict():
            return printed.keys() == shown.keys() and all(
                has_fields(value, shown[key]) for key, value in printed.items()
            )
        case list(), list():
            return all(has_fields(each, first) for first in shown[:1] for each in printed)
    return not isinstance(printed, dict | list) and not isinstance(shown, dict | list)


def blocks(page: str) -> list[Block]:
    """Return the blocks of ``page`` that are run, in order."""
    found: list[Block] = []
    files: dict[str, str] = {}
    before = ""
    for language, title, body in FENCE.findall(page):
        if title:
            files[title] = body
        elif language == "sh":
            found.append(Block(body, files))
            files = {}
        elif language == "text" and before == "sh":
            found[-1].lines = body.splitlines()
        elif language == "json" and before == "sh":
            found[-1].example = json.loads(body)
        before = language
    return found


def run(page: str, folder: Path, environment: dict[str, str]) -> str:
    """Run ``page`` in ``folder`` and return all output; what it has started is ended.

    Raises AssertionError if a command fails, or if its output is not as the page says.
    """
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    shell = subprocess.Popen(
        ["bash"],
        cwd=folder,
        env=environment | {"PATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        return "".join(_outputs(shell, page, folder))
    finally:
        shell.stdin.close()  # type: ignore[union-attr]
        shell.wait(SECONDS)
        shell.stdout.close()  # type: ignore[union-attr]


def _outputs(shell: subprocess.Popen[str], page: str, folder: Path) -> Iterator[str]:
    _send(shell, START)
    # Whatever is left of a page that failed ends with the shell.
    _send(shell, "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT")
    for number, block in enumerate(blocks(page)):
        for name, content in block.files.items():
            (folder / name).write_text(content, encoding="utf-8")
        (folder / f"{number}.sh").write_text(block.commands, encoding="utf-8")
        deadline = time.monotonic() + SECONDS
        while True:
            _send(shell, RUN.format(number))
            status = shell.stdout.readline()  # type: ignore[union-attr]
            output = (folder / f"{number}.out").read_text("utf-8")
            missing = block.missing(output)
            if status == "0 0\n" and not missing:
                break
            assert block.lines or block.example, (block.commands, status, output)
            assert time.monotonic() < deadline, (block.commands, status, output, missing)
            time.sleep(PAUSE_SECONDS)
        yield output


def _send(shell: subprocess.Popen[str], line: str) -> None:
    assert shell.stdin is not None
    shell.stdin.write(f"{line}\n")
    shell.stdin.flush()
