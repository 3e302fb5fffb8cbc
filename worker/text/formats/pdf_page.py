"""The text of a page of a PDF, from two readers that make up for each other.

The parser knows headings, columns and tables, but loses words: on pages that are turned, at the
edges of pages, and the spaces of some fonts. PDFium loses no word, but knows lines only. So the
page is what the parser makes of it, with the lines that it lost; if it lost too much, the page is
what PDFium says. Lines that run through the document, such as headers, are kept once.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ingestq.core.unicode_forms import composed

MAX_LOST: Final = 0.2
"""If the parser lost a larger share of the words of a page, its columns and tables are not to be
relied on either."""
EDGE_LINES: Final = 3
"""Headers and footers are among so many first and last lines of a page, in the order in which the
page is drawn."""
MIN_REPEATS: Final = 3
"""A line on so many pages runs through the document."""
MAX_NUMBERS: Final = 4
"""In a line that runs through the document but for the number of the page."""
MAX_JOINED: Final = 64
"""Letters of a word that may be two words, or the other way around."""

WORD: Final = re.compile(r"[^\W_]+")
NUMBER: Final = re.compile(r"\d{1,6}")
LIGATURES: Final = {
    code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)
}
UNWANTED: Final = {
    ord("\N{SOFT HYPHEN}"): None,
    **{code: None for code in range(32) if chr(code) not in "\t\n\r\f"},
}
LINE_END: Final = re.compile(r"[\ufffe\x02](?:\r?\n)?")
"""What PDFium writes for a hyphen at the end of a line."""
HYPHENATED: Final = re.compile(r"(?<=[^\W\d_])-\n(?=[^\W\d_])")
SPACED: Final = re.compile(r"([^|]+)")
BLANKS: Final = re.compile(r"\s+")
MAX_RESPACED: Final = 20_000
"""Characters of a page of which spaces are restored. A full page has a quarter of them."""


@dataclass(frozen=True)
class PageText:
    """What a page says, and whether it is Markdown."""

    text: str
    markdown: bool


def lines_of(text: str) -> tuple[str, ...]:
    """Return the lines of a page, as PDFium reads it."""
    text = LINE_END.sub("-\n", text)
    return tuple(line for line in map(str.strip, tidied(text).splitlines()) if line)


def joined(text: str) -> str:
    """Return ``text`` with words that are hyphenated at the end of a line in one piece."""
    return HYPHENATED.sub(_continued, text)


def _continued(hyphen: re.Match[str]) -> str:
    """Return the hyphen between two lines if it is more than a hyphenation."""
    around = hyphen.string[hyphen.start() - 1], hyphen.string[hyphen.end()]
    return "" if all(map(str.islower, around)) else "-"


def tidied(text: str) -> str:
    """Return ``text`` in NFC, without ligatures, soft hyphens and control characters."""
    return composed(text.translate(LIGATURES).translate(UNWANTED))


def letters_in(lines: Iterable[str]) -> int:
    """Return the number of letters and digits in ``lines``."""
    return sum(len(word) for line in lines for word in WORD.findall(line))


def share_of_words(text: str, other: str) -> float:
    """Return how many of the words of ``text`` are also in ``other``: 1 if all, or none are."""
    wanted = Counter(WORD.findall(text))
    missing = wanted - Counter(WORD.findall(other))
    return 1 - missing.total() / wanted.total() if wanted else 1.0


def running_lines(pages: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Find the lines that run through a document: headers and footers.

    Returns for each of ``pages``, which are lists of lines, its running lines, and what each is on
    all pages: the number of the page may differ.
    """
    edges = [dict.fromkeys((*page[:EDGE_LINES], *page[-EDGE_LINES:])) for page in pages]
    counts = Counter(
        form
        for number, edge in enumerate(edges)
        for form in {form for line in edge for form in _forms(line, number)}
    )
    found: list[dict[str, str]] = []
    for number, edge in enumerate(edges):
        forms = {line: max(_forms(line, number), key=lambda form: counts[form]) for line in edge}
        found.append({line: form for line, form in forms.items() if counts[form] >= MIN_REPEATS})
    return found


def _forms(line: str, page: int) -> list[str]:
    """Return ``line``, and the same with each number in it counted from that of the page."""
    numbers = list(NUMBER.finditer(line))
    if len(numbers) > MAX_NUMBERS:
        return [line]
    return [line] + [
        f"{line[: found.start()]}\0{int(found[0]) - page}\0{line[found.end() :]}"
        for found in numbers
    ]


def page_text(
    lines: Sequence[str], markdown: str, running: Mapping[str, str], seen: set[str]
) -> PageText:
    """Return what a page says of which PDFium reads ``lines``, and the parser ``markdown``.

    Of its ``running`` lines, those that earlier pages had are left out. They are ``seen``, to which
    the others are added.
    """
    repeated = {line for line, form in running.items() if form in seen}
    seen.update(running.values())
    own = [line for line in lines if line not in repeated]
    if not lines:
        return PageText(tidied(markdown).strip(), markdown=True)
    kept = _without(tidied(markdown), repeated)
    most = MAX_LOST * sum(map(len, map(WORD.findall, own)))
    lost = _lost_words(own, kept)
    if lost.total() > most:
        kept = _with_spaces(kept, own)
        lost = _lost_words(own, kept)
    if lost.total() > most:
        return PageText(joined("\n".join(own)), markdown=False)
    lost_lines = _lost_lines(own, kept, lost)
    return PageText("\n\n".join(filter(None, (kept, joined("\n".join(lost_lines))))), markdown=True)


def _without(markdown: str, repeated: Iterable[str]) -> str:
    """Return ``markdown`` without ``repeated`` lines. Rows of tables stay.

    They are lines of their own, or joined to the first and the last paragraph of the page.
    """
    markdown = markdown.strip()
    for line in repeated:
        markdown = markdown.removeprefix(f"{line} ").removesuffix(f" {line}")
    runs = sorted((words for line in repeated if (words := WORD.findall(line))), key=len)[::-1]
    kept = [
        line
        for line in markdown.split("\n")
        if line.startswith("|") or not _consists_of(WORD.findall(line), runs)
    ]
    return "\n".join(kept).strip()


def _consists_of(words: list[str], runs: list[list[str]]) -> bool:
    """Return True if ``words`` are some of ``runs``, one after the other."""
    if not words or len(words) > sum(map(len, runs)):
        return False
    start = 0
    while start < len(words):
        run = next((run for run in runs if words[start : start + len(run)] == run), None)
        if run is None:
            return False
        start += len(run)
    return True


def _with_spaces(markdown: str, lines: Sequence[str]) -> str:
    """Return ``markdown`` with the spaces that its cells and paragraphs have in ``lines``."""
    text = " ".join(lines)
    if len(text) > MAX_RESPACED:
        return markdown
    letters = BLANKS.sub("", text)
    places = [place for place, sign in enumerate(text) if not sign.isspace()]
    end = 0

    def restore(found: re.Match[str]) -> str:
        nonlocal end
        wanted = BLANKS.sub("", found[0].lstrip("# "))
        start = letters.find(wanted, end) if wanted else -1
        if start < 0:
            return found[0]
        end = start + len(wanted)
        head = found[0][: len(found[0]) - len(found[0].lstrip("# "))]
        tail = found[0][len(found[0].rstrip()) :]
        return f"{head}{text[places[start] : places[end - 1] + 1]}{tail}"

    return "\n".join(SPACED.sub(restore, line) for line in markdown.split("\n"))


def _lost_words(lines: Sequence[str], markdown: str) -> Counter[str]:
    """Return the words in ``lines`` that ``markdown`` lacks, however the two break words."""
    wanted = Counter(word for line in lines for word in WORD.findall(line))
    found = Counter(WORD.findall(markdown))
    lost, extra = wanted - found, found - wanted
    _remove_joined(lost, extra)
    _remove_joined(extra, lost)
    return +lost


def _remove_joined(parts: Counter[str], wholes: Counter[str]) -> None:
    """Remove pairs of ``parts`` that are one of ``wholes``, and this, from both."""
    for whole in list(wholes):
        if len(whole) > MAX_JOINED:
            continue
        for cut in range(1, len(whole)):
            first, second = whole[:cut], whole[cut:]
            if parts[first] > 0 and parts[second] > 0:
                times = min(wholes[whole], parts[first], parts[second])
                for word, counts in ((first, parts), (second, parts), (whole, wholes)):
                    counts[word] -= times
                break


def _lost_lines(lines: Sequence[str], markdown: str, lost: Counter[str]) -> Iterator[str]:
    """Yield the ``lines`` of which the words are ``lost``, and those with one that is nowhere."""
    lost = lost.copy()
    there = set(WORD.findall(markdown))
    for line in lines:
        words = Counter(WORD.findall(line))
        whole = bool(words) and words <= lost
        if whole or any(lost[word] > 0 and word not in there and len(word) > 1 for word in words):
            lost.subtract(words)
            yield line
