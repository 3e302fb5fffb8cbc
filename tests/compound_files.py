"""Writes compound files, which Outlook and old Office programs save, stream by stream."""

import struct
from collections.abc import Mapping
from typing import Final, TypeAlias, Union

Storage: TypeAlias = Mapping[str, Union[bytes, "Storage"]]

SECTOR: Final = 512
MINI_SECTOR: Final = 64
MINI_BYTES: Final = 4096
"""Shorter streams lie in mini sectors."""
END: Final = 0xFFFFFFFE
FREE: Final = 0xFFFFFFFF
FAT_SECTOR: Final = 0xFFFFFFFD
ROOT, STORAGE, STREAM = 5, 1, 2
ENTRY: Final = struct.Struct("<64sHBBIII16sIQQIQ")
HEADER: Final = struct.Struct("<8s16sHHHHH6x9I")
NUMBERS: Final = SECTOR // 4
"""Of sectors that fit into one, and into the header with less room."""


class _Chains:
    """Data in sectors of one size, and for each the number of the next."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.data = bytearray()
        self.next: list[int] = []

    def add(self, data: bytes) -> int:
        """Return the number of the first sector with ``data``."""
        if not data:
            return END
        first, count = len(self.next), -(-len(data) // self.size)
        self.data += data.ljust(count * self.size, b"\0")
        self.next += [*range(first + 1, first + count), END]
        return first


def compound(root: Storage) -> bytes:
    """Return the compound file with the streams and storages in ``root``."""
    sectors, minis = _Chains(SECTOR), _Chains(MINI_SECTOR)
    entries: list[list[int | str | bytes]] = [["Root Entry", ROOT, FREE, END, 0]]
    next_sibling: dict[int, int] = {}

    def add(storage: Storage, parent: int) -> None:
        before = None
        for name in sorted(storage, key=lambda name: (len(name), name.upper())):
            content, number = storage[name], len(entries)
            if isinstance(content, bytes):
                chains = minis if len(content) < MINI_BYTES else sectors
                entries.append([name, STREAM, FREE, chains.add(content), len(content)])
            else:
                entries.append([name, STORAGE, FREE, 0, 0])
                add(content, number)
            if before is None:
                entries[parent][2] = number
            else:
                next_sibling[before] = number
            before = number

    add(root, 0)
    entries[0][3:] = [sectors.add(bytes(minis.data)), len(minis.data)]
    packed = b"".join(
        _packed(entry, next_sibling.get(number, FREE)) for number, entry in enumerate(entries)
    )
    directory = sectors.add(packed)
    mini_fat = sectors.add(_numbers(minis.next))
    mini_fat_count = -(-len(minis.next) // NUMBERS)
    fat_count = 1
    while len(sectors.next) + fat_count > fat_count * NUMBERS:
        fat_count += 1
    places = list(range(len(sectors.next), len(sectors.next) + fat_count))
    fat = _numbers([*sectors.next, *([FAT_SECTOR] * fat_count)])
    header = HEADER.pack(
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"", 0x3E, 3, 0xFFFE, 9, 6, 0, fat_count, directory, 0,
        MINI_BYTES, mini_fat, mini_fat_count, END, 0,
    )  # fmt: skip
    return header + _numbers(places).ljust(436, b"\xff")[:436] + sectors.data + fat


def _packed(entry: list[int | str | bytes], sibling: int) -> bytes:
    name, kind, child, start, size = entry
    written = str(name).encode("utf-16-le")
    return ENTRY.pack(
        written, len(written) + 2, kind, 1, FREE, sibling, child, b"", 0, 0, 0, start, size
    )


def _numbers(numbers: list[int]) -> bytes:
    count = -(-len(numbers) // NUMBERS) * NUMBERS
    return struct.pack(f"<{count}I", *numbers, *[FREE] * (count - len(numbers)))
