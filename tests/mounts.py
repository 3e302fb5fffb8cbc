"""Real file systems that tests mount and unmount; without permission, these tests are skipped."""

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

AS_ROOT: Final = ((), ("sudo", "-n"))


@dataclass
class Mounts:
    """Mounts file systems, each in memory and on a device of its own, until it is closed."""

    _mounted: list[Path] = field(default_factory=list)

    def mount(self, folder: Path) -> None:
        """Mount an empty file system at ``folder``, which is made if it is not there."""
        self._mount(folder, "-t", "tmpfs", "-o", "size=1m,mode=0777", "tmpfs")

    def bind(self, source: Path, folder: Path) -> None:
        """Mount ``source`` at ``folder`` too: a mount point without a device of its own."""
        self._mount(folder, "--bind", str(source))

    def unmount(self, folder: Path) -> None:
        """Unmount what is mounted at ``folder``."""
        assert _run("umount", "--lazy", str(folder))
        self._mounted.remove(folder)

    def close(self) -> None:
        """Unmount everything."""
        for folder in reversed(self._mounted[:]):
            self.unmount(folder)

    def _mount(self, folder: Path, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not _run("mount", *options, str(folder)):
            pytest.skip("no file system can be mounted here")
        self._mounted.append(folder)


def _run(*command: str) -> bool:
    """Run ``command`` as root; return whether that was possible."""
    return any(
        shutil.which((*as_root, *command)[0]) is not None
        and subprocess.run([*as_root, *command], capture_output=True, check=False).returncode == 0
        for as_root in AS_ROOT
    )
