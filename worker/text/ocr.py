"""Recognises text in images by Tesseract (OCR). Runs in parse processes.

It needs a file of data for each language, which the system's packages bring; nothing is downloaded.
A page takes up to a few seconds, so OCR has a budget: interactive work gets a few pages, and what
needs more becomes bulk work (see `worker.text.processes`).

The parser and the image library are imported inside functions: `ingestq doctor` needs neither.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ingestq.core.metrics import PipelineStage
from worker.process_pool.process import renew_limit
from worker.text.config import OcrMode, ReadingConfig
from worker.text.stage_times import timed

if TYPE_CHECKING:
    from PIL.Image import Image

    from worker.text.parser import RecognizedText

DPI: Final = 200
"""Resolution of the images that are given to Tesseract. It finds as much at 200 as at 300 dots per
inch, in Korean more, in half the time."""
SUFFIX: Final = ".traineddata"
USUAL_FOLDERS: Final = (
    "usr/share/tesseract-ocr/*/tessdata",  # Debian, Ubuntu
    "usr/share/tesseract/tessdata",  # Fedora
    "usr/share/tessdata",  # Arch, Alpine
    "usr/local/share/tessdata",
    "opt/homebrew/share/tessdata",
    "opt/local/share/tessdata",  # MacPorts
)
EAST_ASIAN: Final = ("kor", "jpn", "chi")
"""The first language decides whether Tesseract writes a space after each syllable of them."""

AUTOMATIC_LAYOUT: Final = 3
"""Tesseract finds columns."""
ONE_COLUMN: Final = 4
"""Tesseract takes everything for text, also scattered strokes of Hangul, most of which it takes for
pictures if it looks for columns."""
UPRIGHT_CONFIDENCE: Final = 0.6
"""Pages that lie on their side or head give less, clean pages more than 0.8."""
TURNS: Final = (180, 90, 270)

OCR_SECONDS: Final = 1200.0
"""For all pages of a document. A parse process may take half an hour for it in all."""
WORD: Final = re.compile(r"\w+")


class OcrPostponed(Exception):
    """A document has more pages for OCR than are allowed for now."""


@dataclass(frozen=True)
class OcrData:
    """The folder with data for Tesseract, and which of the wanted languages it has not."""

    folder: Path | None
    missing: tuple[str, ...]


@dataclass
class _Budget:
    pages: int | None
    ends_at: float


_budget: ContextVar[_Budget | None] = ContextVar("ocr_budget", default=None)


@contextmanager
def ocr_budget(pages: int | None) -> Iterator[None]:
    """Allow OCR of so many pages inside, and for `OCR_SECONDS`; None is any number of pages."""
    token = _budget.set(_Budget(pages, time.monotonic() + OCR_SECONDS))
    try:
        yield
    finally:
        _budget.reset(token)


def find_data(languages: tuple[str, ...], named: Path | None, root: Path = Path("/")) -> OcrData:
    """Find Tesseract's data for ``languages``: in the folder ``named``, or in the usual ones.

    ``root`` contains the usual ones. Of several folders, the one with most of the languages is it.
    """
    if named is not None:
        folders = [named, named / "tessdata"]
    else:
        folders = [
            folder for pattern in USUAL_FOLDERS for folder in sorted(root.glob(pattern))[::-1]
        ]
    found = [OcrData(folder, _missing(languages, folder)) for folder in folders if folder.is_dir()]
    return min(found, key=lambda data: len(data.missing), default=OcrData(None, languages))


def installed_languages(folder: Path) -> list[str]:
    """Return the languages that ``folder`` has data for."""
    return sorted(file.name.removesuffix(SUFFIX) for file in folder.glob(f"*{SUFFIX}"))


def why_unavailable(reading: ReadingConfig) -> str | None:
    """Return why OCR cannot be used; None if it can."""
    if reading.ocr is OcrMode.OFF:
        return "INGESTQ_OCR is off"
    missing = find_data(reading.ocr_languages, reading.tessdata).missing
    return why_missing(missing) if missing else None


def why_missing(languages: tuple[str, ...]) -> str:
    """Say that there is no data for ``languages``, and how to get it."""
    packages = " ".join(f"tesseract-ocr-{name.lower().replace('_', '-')}" for name in languages)
    return (
        f"OCR has no language data for {', '.join(languages)}; install it (on Debian: {packages}) "
        "or set TESSDATA_PREFIX to its folder"
    )


def recognize(image: "Image", reading: ReadingConfig) -> str | None:
    """Return the text in ``image``, which is gray, has `DPI` and may be turned; None if time is up.

    OCR must be available; see `why_unavailable`. Raises OcrPostponed if more than the allowed
    pages would have been read.
    """
    budget = _budget.get()
    if budget is not None:
        if time.monotonic() > budget.ends_at:
            return None
        if budget.pages is not None:
            if budget.pages == 0:
                raise OcrPostponed
            budget.pages -= 1
    renew_limit()
    with timed(PipelineStage.OCR):
        best = _read(image, reading)
        if best.confidence is not None and best.confidence < UPRIGHT_CONFIDENCE:
            turned = [_read(image.rotate(turn, expand=True), reading) for turn in TURNS]
            best = max(best, *turned, key=lambda text: text.confidence or 0)
    return best.text


def _read(image: "Image", reading: ReadingConfig) -> "RecognizedText":
    """Recognise ``image`` as it lies."""
    from worker.text.parser import recognize

    folder = find_data(reading.ocr_languages, reading.tessdata).folder
    assert folder is not None, "OCR is available"
    languages = sorted(
        reading.ocr_languages, key=lambda language: not language.startswith(EAST_ASIAN)
    )
    file = BytesIO()
    image.save(file, "PNG", compress_level=1, dpi=(DPI, DPI))
    png = file.getvalue()
    found = recognize(png, languages, folder, DPI, AUTOMATIC_LAYOUT)
    if found.text and not languages[0].startswith(EAST_ASIAN):
        return found
    other = recognize(png, languages, folder, DPI, ONE_COLUMN)
    return max(found, other, key=lambda text: sum(map(len, WORD.findall(text.text))))


def _missing(languages: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    return tuple(name for name in languages if not (folder / f"{name}{SUFFIX}").is_file())
