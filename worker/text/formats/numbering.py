"""Numbers of list items and headings, as Word counts them: 4., 4.2, b), iii."""

from collections.abc import Callable
from typing import Final

from lxml import etree

WORD: Final = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
VALUE: Final = f"{WORD}val"
LEVELS: Final = 9
BULLET: Final = "-"
ROMAN: Final = (
    (1000, "m"),
    (900, "cm"),
    (500, "d"),
    (400, "cd"),
    (100, "c"),
    (90, "xc"),
    (50, "l"),
    (40, "xl"),
    (10, "x"),
    (9, "ix"),
    (5, "v"),
    (4, "iv"),
    (1, "i"),
)
LETTERS: Final = 26
MAX_NUMBER: Final = 4000
"""Larger numbers are written in digits: Roman ones and letters would grow long."""


def roman(number: int) -> str:
    """Return ``number`` in small Roman numerals; in digits if they were too long."""
    if not 0 < number < MAX_NUMBER:
        return str(number)
    written = ""
    for value, numeral in ROMAN:
        times, number = divmod(number, value)
        written += numeral * times
    return written


def letters(number: int) -> str:
    """Return ``number`` as word processors count with letters: a to z, aa, bb, …"""
    if not 0 < number < MAX_NUMBER:
        return str(number)
    times, place = divmod(number - 1, LETTERS)
    return chr(ord("a") + place) * (times + 1)


def column_letters(number: int) -> str:
    """Return the name of the column ``number`` of a sheet, from 1: A to Z, AA, AB, …"""
    name = ""
    while number > 0:
        number, place = divmod(number - 1, LETTERS)
        name = chr(ord("A") + place) + name
    return name


FORMATS: Final[dict[str, Callable[[int], str]]] = {
    "lowerLetter": letters,
    "lowerRoman": roman,
    "upperLetter": lambda number: letters(number).upper(),
    "upperRoman": lambda number: roman(number).upper(),
    "decimalZero": lambda number: f"{number:02d}",
    "none": lambda number: "",
}


class Level:
    """How the items of one level of a list are numbered."""

    def __init__(self, element: etree._Element) -> None:
        self.start = integer(_value(element, "start"), 1)
        self.format = _value(element, "numFmt") or "decimal"
        self.text = _value(element, "lvlText") or ""

    def number(self, number: int) -> str:
        """Return ``number`` in the format of this level."""
        write = FORMATS.get(self.format)
        return write(number) if write else str(number)


class Numbering:
    """The lists of a document. Counts their items: each paragraph is asked for once, in order."""

    def __init__(self, root: etree._Element | None) -> None:
        self._levels: dict[str, dict[int, Level]] = {}  # by the id of a list
        self._counted_as: dict[str, str] = {}  # lists that share a definition count together
        self._counts: dict[str, list[int]] = {}
        if root is not None:
            self._read(root)

    def _read(self, root: etree._Element) -> None:
        abstract = {
            str(each.get(f"{WORD}abstractNumId")): _levels_of(each)
            for each in root.iterchildren(f"{WORD}abstractNum")
        }
        for each in root.iterchildren(f"{WORD}num"):
            name = str(each.get(f"{WORD}numId"))
            definition = _value(each, "abstractNumId") or ""
            levels = dict(abstract.get(definition, {}))
            overrides = list(each.iterchildren(f"{WORD}lvlOverride"))
            for override in overrides:
                levels |= _levels_of(override)
            restarts = any(
                override.find(f"{WORD}startOverride") is not None for override in overrides
            )
            self._levels[name] = levels
            self._counted_as[name] = name if restarts else f"abstract {definition}"

    def label(self, name: str, level: int) -> str:
        """Return what stands before the next item of the list ``name``; "" if it is no list."""
        levels = self._levels.get(name, {})
        if (own := levels.get(level)) is None:
            return ""
        if own.format == "bullet":
            return BULLET
        counts = self._counts.setdefault(self._counted_as[name], [0] * LEVELS)
        for above in range(level):
            counts[above] = counts[above] or _start(levels, above)
        counts[level] = counts[level] + 1 if counts[level] else own.start
        counts[level + 1 :] = [0] * (LEVELS - level - 1)
        label = own.text
        for place in range(level + 1):
            shown = levels.get(place, own).number(counts[place])
            label = label.replace(f"%{place + 1}", shown)
        return label.strip()


def _start(levels: dict[int, Level], level: int) -> int:
    return levels[level].start if level in levels else 1


def _levels_of(element: etree._Element) -> dict[int, Level]:
    return {
        integer(each.get(f"{WORD}ilvl"), 0): Level(each)
        for each in element.iterchildren(f"{WORD}lvl")
    }


def _value(element: etree._Element, name: str) -> str | None:
    found = element.find(WORD + name)
    return None if found is None else found.get(VALUE)


def integer(text: str | None, default: int) -> int:
    """Return ``text`` as a number; ``default`` if it is none."""
    try:
        return int(text or default)
    except ValueError:
        return default
