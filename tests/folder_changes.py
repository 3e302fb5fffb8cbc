"""Random changes to watched folders, as shell commands, and what a search has to find afterwards.

Two folders are watched: ``plain``, of which every file is a document, and ``picky``, which has
patterns. Files also move to and from ``away``, which is not watched. `FolderChanges` changes only
folders of its own in the three, so that many of them share one running ingestq. The same seed makes
the same commands, which can be pasted into a shell.
"""

import os
import random
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PLAIN: Final = "plain"
PICKY: Final = "picky"
AWAY: Final = "away"
WATCHED: Final = (PLAIN, PICKY)
DROP_TABLES: Final = f"""
[[drop]]
path = "{PLAIN}"

[[drop]]
path = "{PICKY}"
include = ["*.md"]
exclude = ["draft*"]
"""
UNFINISHED: Final = (".part", ".partial", ".tmp", ".crdownload", "~")
FILE_NAMES: Final = ("a.md", "b.md", "c.txt", "d", "draft.md")
ODD_NAMES: Final = ("a b.md", "it's.md", "-n.md", "#.md", "cafe\u0301.md", "\u6f6e.md", "x.part.md")
LONG_NAME: Final = "\u6f6e" * 84 + ".md"
"""A name of 255 bytes, the most that a name may have."""
FOLDER_NAMES: Final = ("p", "q", "r", "a.md")
FOLDERS: Final = 6
"""Most folders of a sequence in a watched one."""
ATTEMPTS: Final = 100
FEW: Final = 4
"""Most files that one change removes."""
MANY: Final = 12
"""More files than the mass-deletion guard lets go unasked."""
DAMAGED: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\3\7\7"
"""The content of a gzip archive that cannot be read."""

Words = frozenset[str]
Held = Mapping[str, Words]
"""The words of each document that a search has to find, by the document's id."""


class FolderChanges:
    """Changes below folders called ``name`` in those in ``base``.

    ``name`` is also in every text that is written, and consists of letters. ``commands`` are the
    shell commands so far, which run in ``base``. ``kept`` is what a search found at the last
    comparison, and ``locked`` are the paths that ingestq may not read.
    """

    def __init__(self, base: Path, name: str, seed: str) -> None:
        self.base = base
        self.name = name
        self.rng = random.Random(seed)
        self.commands: list[str] = []
        self.kept: Held = {}
        self.locked: list[Path] = []
        self._written = 0
        self.sh("mkdir " + " ".join(f"{top}/{name}" for top in (*WATCHED, AWAY)))

    def make(self, kinds: Sequence[str], count: int) -> None:
        """Make at most ``count`` changes of some of the ``kinds``; not all are always possible."""
        made = 0
        for _ in range(ATTEMPTS):
            if made < count:
                made += CHANGES[self.rng.choice(kinds)].make(self)

    def clear_up(self) -> None:
        """Make everything readable again, and remove links that lead out of their watched folder.

        ``ingestq verify PATH`` walks as ``ingestq run PATH`` does, which follows them.
        """
        for path in list(self.locked):
            _unlock(self, path)
        for link in self.links():
            if not Path(os.path.realpath(link)).is_relative_to(self._watched(link)):
                self.sh(f"rm {self.short(link)}")
        for path in self.files():
            if is_damaged(path):
                self.write(path)

    def held(self) -> Held:
        """Return what a search has to find now.

        Of what cannot be read that is what was ``kept`` of it. A symbolic link is a document only
        if it leads to a file in the same watched folder that is none by itself, and that no other
        link comes to before.
        """
        now = {str(path): self._words(path, path) for path in self.files() if self.is_doc(path)}
        linked = set()
        for link in sorted(self.links()):
            file = Path(os.path.realpath(link))
            if file in linked or not self.is_doc(link) or not self._is_hidden_file(link, file):
                continue
            linked.add(file)
            now[str(link)] = self._words(link, file)
        locked = {key: words for key, words in self.kept.items() if not self._is_free(Path(key))}
        return {key: words for key, words in (now | locked).items() if words}

    def gone(self, top: str) -> int:
        """Return how many documents are gone from a watched folder since the last comparison.

        Those that have moved in it are not gone.
        """
        folder = f"{self.base / top}/"
        now = {key: words for key, words in self.held().items() if key.startswith(folder)}
        found = set(now.values())
        return sum(
            key.startswith(folder) and key not in now and words not in found
            for key, words in self.kept.items()
        )

    def sh(self, command: str) -> bool:
        """Run a shell command; return True."""
        self.commands.append(command)
        run_in_shell(self.base, command)
        return True

    def short(self, path: Path) -> str:
        """Return ``path`` as the commands have it."""
        return shlex.quote(str(path.relative_to(self.base)))

    def write(self, path: Path) -> bool:
        """Write a new text to ``path``, in place; return True."""
        return self.sh(f"echo '{self.text()}' > {self.short(path)}")

    def text(self) -> str:
        """Return a text of one or many sentences that nothing else has."""
        return " ".join(self._sentence() for _ in range(self.rng.choice((1, 1, 1, 2, 2, 3, 40))))

    def _sentence(self) -> str:
        self._written += 1
        return f"The tide of {self.name}_{letters(self._written)} turns."

    def _words(self, path: Path, file: Path) -> Words:
        if not self._is_free(file) or is_damaged(file):
            return self.kept.get(str(path), Words())
        return words_of(file.read_text(encoding="utf-8"), self.name)

    def _is_hidden_file(self, link: Path, file: Path) -> bool:
        """Return whether ``file`` is no document, but may become one by ``link``."""
        is_inside = file.is_relative_to(self._watched(link))
        return is_inside and file.is_file() and not self.is_doc(file)

    def _watched(self, path: Path) -> Path:
        """Return the watched folder that ``path`` is in."""
        return self.base / path.relative_to(self.base).parts[0]

    def is_doc(self, path: Path) -> bool:
        """Return whether the file is a document by its name."""
        relative = path.relative_to(self.base)
        if any(part.startswith(".") or part.endswith(UNFINISHED) for part in relative.parts):
            return False
        if relative.parts[0] == PLAIN:
            return True
        # As in a .gitignore file, a pattern that fits a folder fits everything in it.
        included = any(part.endswith(".md") for part in relative.parts)
        return included and not any(part.startswith("draft") for part in relative.parts)

    def tops(self) -> list[Path]:
        """Return the sequence's own folders in the watched ones."""
        return [self.base / top / self.name for top in WATCHED]

    def files(self) -> list[Path]:
        """Return the files that can be read, in the watched folders."""
        return [path for path, kind in self._walk() if kind == "file"]

    def links(self) -> list[Path]:
        """Return the symbolic links in the watched folders."""
        return [path for path, kind in self._walk() if kind == "link"]

    def folders(self, most: int = 1000) -> list[Path]:
        """Return the folders with at most ``most`` files in them, without those of `tops`."""
        files = self.files()
        return [
            path
            for path, kind in self._walk()
            if kind == "folder" and sum(file.is_relative_to(path) for file in files) <= most
        ]

    def _walk(self) -> Iterator[tuple[Path, str]]:
        for top in self.tops():
            for above, folders, files in os.walk(top):
                folders.sort()
                for name in [*folders, *sorted(files)]:
                    path = Path(above, name)
                    if not self._is_free(path):
                        continue
                    link = path.is_symlink()
                    yield path, "link" if link else "folder" if name in folders else "file"

    def _is_free(self, path: Path) -> bool:
        """Return whether ``path`` is neither locked nor below or above what is."""
        return not any(
            path.is_relative_to(other) or other.is_relative_to(path) for other in self.locked
        )

    def pick(self, paths: Sequence[Path]) -> Path | None:
        """Return one of ``paths``; None if there are none."""
        return self.rng.choice(paths) if paths else None

    def settled(self) -> list[Path]:
        """Return the files that have not changed since the last comparison."""
        held = self.held()
        return [p for p in self.files() if str(p) in held and held[str(p)] == self.kept.get(str(p))]

    def settled_folders(self) -> list[Path]:
        """Return the folders in which nothing has changed since the last comparison."""
        changed = self.held().items() ^ self.kept.items()
        return [
            folder
            for folder in self.folders()
            if not any(Path(key).is_relative_to(folder) for key, _ in changed)
        ]

    def place(self, names: Sequence[str] = FILE_NAMES, top: Path | None = None) -> Path | None:
        """Return a path at which there is nothing yet."""
        folder = self.pick([*self.tops(), *self.folders()]) if top is None else top
        assert folder is not None
        return self.pick([folder / name for name in names if not os.path.lexists(folder / name)])


def run_in_shell(folder: Path, command: str) -> None:
    """Run a shell command in ``folder``. Raises CalledProcessError if it fails."""
    subprocess.run(["/bin/sh", "-euc", command], cwd=folder, check=True, timeout=60)


def is_damaged(path: Path) -> bool:
    """Return whether nothing can be read of the file at ``path``."""
    return path.read_bytes().startswith(DAMAGED)


def words_of(text: str, name: str) -> Words:
    """Return the words in ``text`` that changes called ``name`` wrote."""
    return Words(re.findall(rf"\b{name}_([a-z]+)", text))


def letters(number: int) -> str:
    """Return a word for ``number``."""
    return "".join("bcdfghklmn"[int(digit)] + "aeiou"[int(digit) % 5] for digit in str(number))


@dataclass(frozen=True)
class Change:
    """A kind of change. ``make`` returns False if there is nothing to which it can be done.

    One that ``removes`` documents counts for the mass-deletion guard.
    """

    make: Callable[[FolderChanges], bool]
    removes: bool


CHANGES: Final[dict[str, Change]] = {}
"""Every kind of change, by its name in docs/sources.md."""


def change(name: str, *, removes: bool = False) -> Callable[..., Callable[[FolderChanges], bool]]:
    """Return a decorator that adds a function to `CHANGES`."""

    def add(make: Callable[[FolderChanges], bool]) -> Callable[[FolderChanges], bool]:
        CHANGES[name] = Change(make, removes)
        return make

    return add


@change("create a file")
def _create(at: FolderChanges) -> bool:
    path = at.place()
    return path is not None and at.write(path)


@change("create a file with an odd name")
def _create_odd(at: FolderChanges) -> bool:
    path = at.place(ODD_NAMES)
    return path is not None and at.write(path)


@change("create a file with a long name")
def _create_long(at: FolderChanges) -> bool:
    path = at.place([LONG_NAME])
    return path is not None and at.write(path)


@change("create a large folder")
def _create_large_folder(at: FolderChanges) -> bool:
    path = at.place(["large"])
    if path is None or any(folder.name.startswith("large") for folder in at.folders()):
        return False
    at.sh(f"mkdir {at.short(path)}")
    return all(at.write(path / f"{number}.md") for number in range(MANY))


@change("create a folder")
def _create_folder(at: FolderChanges) -> bool:
    path = at.place(FOLDER_NAMES)
    if path is None or len(at.folders()) > FOLDERS:
        return False
    short = at.short(path)
    at.sh(f"mkdir -p {short}/q && echo '{at.text()}' > {short}/a.md")
    return at.write(path / "q" / "b.md")


@change("write a file slowly")
def _write_slowly(at: FolderChanges) -> bool:
    path = at.place()
    if path is None:
        return False
    parts = [f"printf '%s ' '{at.text()}'" for _ in range(3)]
    return at.sh(f"({'; sleep 0.2; '.join(parts)}) > {at.short(path)}")


@change("edit a file")
def _edit(at: FolderChanges) -> bool:
    path = at.pick(at.files())
    return path is not None and at.write(path)


@change("append to a file")
def _append(at: FolderChanges) -> bool:
    path = at.pick(at.settled())
    return path is not None and at.sh(f"echo '{at.text()}' >> {at.short(path)}")


@change("touch a file")
def _touch(at: FolderChanges) -> bool:
    path = at.pick(at.files())
    return path is not None and at.sh(f"touch {at.short(path)}")


@change("replace a file atomically")
def _replace(at: FolderChanges) -> bool:
    path = at.pick(at.files())
    if path is None:
        return False
    short = at.short(path)
    other = at.short(path.with_name(at.rng.choice((".new.swp", "new.tmp"))))
    if at.rng.random() < 0.5:  # as editors do that keep a backup
        backup = at.short(path.with_name("backup~"))
        return at.sh(f"mv {short} {backup} && echo '{at.text()}' > {short} && rm {backup}")
    return at.sh(f"echo '{at.text()}' > {other} && mv {other} {short}")


@change("truncate a file")
def _truncate(at: FolderChanges) -> bool:
    path = at.pick([p for p in at.settled() if p.stat().st_size > 100])
    if path is None:
        return False
    short = at.short(path)
    return at.sh(f'text=$(head -c 50 {short}) && printf %s "$text" > {short}')


@change("empty a file", removes=True)
def _empty(at: FolderChanges) -> bool:
    path = at.pick(at.files())
    nothing = at.rng.choice(("", r"\n \n", r"\357\273\277", r"\342\200\213"))
    return path is not None and at.sh(f"printf '{nothing}' > {at.short(path)}")


@change("damage a file")
def _damage(at: FolderChanges) -> bool:
    path = at.pick(at.settled())
    data = "".join(f"\\{byte:03o}" for byte in DAMAGED)
    return path is not None and at.sh(f"printf '{data}' > {at.short(path)}")


@change("delete a file", removes=True)
def _delete(at: FolderChanges) -> bool:
    path = at.pick(at.files())
    return path is not None and at.sh(f"rm {at.short(path)}")


@change("delete a folder", removes=True)
def _delete_folder(at: FolderChanges) -> bool:
    path = at.pick(at.folders(FEW))
    return path is not None and at.sh(f"rm -r {at.short(path)}")


@change("rename a file", removes=True)
def _rename(at: FolderChanges) -> bool:
    return _move(at, at.pick(at.files()), at.place())


@change("rename a file over another", removes=True)
def _rename_over(at: FolderChanges) -> bool:
    return _move(at, at.pick(at.files()), at.pick(at.files()))


@change("change only the case of a name", removes=True)
def _change_case(at: FolderChanges) -> bool:
    path = at.pick(at.files())
    if path is None:
        return False
    other = path.with_name(path.name.swapcase())
    return not os.path.lexists(other) and _move(at, path, other)


@change("exchange two files")
def _exchange(at: FolderChanges) -> bool:
    one, other = at.pick(at.files()), at.pick(at.files())
    if one is None or other is None or one.samefile(other):
        return False
    a, b = at.short(one), at.short(other)
    spare = at.short(one.with_name("spare.tmp"))
    return at.sh(f"mv {a} {spare} && mv {b} {a} && mv {spare} {b}")


@change("rename a folder", removes=True)
def _rename_folder(at: FolderChanges) -> bool:
    return _move_folder(at, at.pick(at.folders(FEW)), at.place(FOLDER_NAMES))


@change("rename a large folder")
def _rename_large_folder(at: FolderChanges) -> bool:
    path = at.pick([path for path in at.settled_folders() if path.name.startswith("large")])
    if path is None:
        return False
    return _move_folder(at, path, at.place(["large1", "large2"], path.parent))


@change("replace a folder", removes=True)
def _replace_folder(at: FolderChanges) -> bool:
    path = at.pick(at.folders(FEW))
    old = at.place([f"old{n}" for n in range(1000)], at.base / AWAY / at.name)
    if path is None or old is None:
        return False
    short = at.short(path)
    return at.sh(
        f"mv {short} {at.short(old)} && mkdir {short} && echo '{at.text()}' > {short}/b.md"
    )


@change("move out of the watched folder", removes=True)
def _move_out(at: FolderChanges) -> bool:
    away = at.base / AWAY / at.name
    if at.rng.random() < 0.5:
        return _move_folder(at, at.pick(at.folders(FEW)), at.place(FOLDER_NAMES, away))
    return _move(at, at.pick(at.files()), at.place(FILE_NAMES, away))


@change("move into the watched folder")
def _move_in(at: FolderChanges) -> bool:
    away = sorted((at.base / AWAY / at.name).iterdir())
    path = at.pick(away)
    if path is None:
        return False
    if path.is_dir():
        return _move_folder(at, path, at.place(FOLDER_NAMES))
    return _move(at, path, at.place())


@change("copy into the watched folder")
def _copy_in(at: FolderChanges) -> bool:
    """Copy a file with its old time of modification, which all that are copied in share."""
    path, old = at.place(), at.place(["old"], at.base / AWAY / at.name)
    if path is None or old is None:
        return False
    name, short = at.short(old), at.short(path)
    at.sh(f"echo '{at.text()}' > {name} && touch -t 200001010000 {name}")
    return at.sh(f"cp -p {name} {short} && rm {name}")


@change("move between watched folders", removes=True)
def _move_between(at: FolderChanges) -> bool:
    one, other = at.tops() if at.rng.random() < 0.5 else reversed(at.tops())
    if at.rng.random() < 0.5:
        folders = [path for path in at.folders(FEW) if path.is_relative_to(one)]
        return _move_folder(at, at.pick(folders), at.place(FOLDER_NAMES, other))
    files = [path for path in at.files() if path.is_relative_to(one)]
    return _move(at, at.pick(files), at.place(FILE_NAMES, other))


@change("link to a file")
def _link_file(at: FolderChanges) -> bool:
    return _link(at, at.pick([path for path in at.files() if at.is_doc(path)]))


@change("link to a file that is no document")
def _link_hidden_file(at: FolderChanges) -> bool:
    """The file is no document, because of its name."""
    return _link(at, at.pick([path for path in at.files() if not at.is_doc(path)]))


@change("link to a folder")
def _link_folder(at: FolderChanges) -> bool:
    return _link(at, at.pick([*at.folders(), *at.tops(), at.base / AWAY / at.name]))


@change("make a broken link")
def _broken_link(at: FolderChanges) -> bool:
    return _link(at, at.base / "nowhere")


@change("remove a link", removes=True)
def _unlink(at: FolderChanges) -> bool:
    path = at.pick(at.links())
    return path is not None and at.sh(f"rm {at.short(path)}")


@change("make a hard link")
def _hard_link(at: FolderChanges) -> bool:
    path, new = at.pick(at.files()), at.place()
    return path is not None and new is not None and at.sh(f"ln {at.short(path)} {at.short(new)}")


@change("replace a file by a folder", removes=True)
def _file_to_folder(at: FolderChanges) -> bool:
    path = at.pick(at.files())
    if path is None:
        return False
    short = at.short(path)
    return at.sh(f"rm {short} && mkdir {short} && echo '{at.text()}' > {short}/a.md")


@change("replace a folder by a file", removes=True)
def _folder_to_file(at: FolderChanges) -> bool:
    path = at.pick(at.folders(FEW))
    if path is None:
        return False
    short = at.short(path)
    return at.sh(f"rm -r {short} && echo '{at.text()}' > {short}")


@change("take a file's permissions")
def _lock_file(at: FolderChanges) -> bool:
    # Other names of the file could not be read either.
    path = at.pick([path for path in at.settled() if path.stat().st_nlink == 1])
    return path is not None and _lock(at, path)


@change("take a folder's permissions")
def _lock_folder(at: FolderChanges) -> bool:
    path = at.pick(at.settled_folders())
    return path is not None and _lock(at, path)


@change("give permissions back")
def _give_back(at: FolderChanges) -> bool:
    path = at.pick(at.locked)
    return path is not None and _unlock(at, path)


@change("mount over a folder")
def _mount_over(at: FolderChanges) -> bool:
    """Hide the files of a folder, as a mount does that was forgotten at start."""
    path = at.pick(at.settled_folders())
    if path is None:
        return False
    at.locked.append(path)
    return at.sh(f"mount -t tmpfs -o size=64k tmpfs {at.short(path)}")


def _move(at: FolderChanges, path: Path | None, new: Path | None) -> bool:
    if path is None or new is None:
        return False
    if new.exists() and new.samefile(path):  # mv refuses to rename a hard link to itself
        return False
    return at.sh(f"mv -f {at.short(path)} {at.short(new)}")


def _move_folder(at: FolderChanges, path: Path | None, new: Path | None) -> bool:
    if path is None or new is None or new.is_relative_to(path):
        return False
    return at.sh(f"mv {at.short(path)} {at.short(new)}")


def _link(at: FolderChanges, target: Path | None) -> bool:
    path = at.place(("l", "l.md"))
    if path is None or target is None:
        return False
    return at.sh(f"ln -s {shlex.quote(os.path.relpath(target, path.parent))} {at.short(path)}")


def _lock(at: FolderChanges, path: Path) -> bool:
    at.locked.append(path)
    # A folder may also be left so that it is only listed, or only passed through.
    mode = at.rng.choice(("000", "444", "111")) if path.is_dir() else "000"
    return at.sh(f"chmod {mode} {at.short(path)}")


def _unlock(at: FolderChanges, path: Path) -> bool:
    at.sh(f"{'umount' if path.is_mount() else 'chmod 755'} {at.short(path)}")
    at.locked.remove(path)
    return True
