"""How documents are read. Plain data."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final


class OcrMode(StrEnum):
    """When text in images is recognised.

    - ``auto``: on pages and images that have no text.
    - ``off``: never.
    - ``force``: on every page and image, instead of the text that the file has.
    """

    AUTO = "auto"
    OFF = "off"
    FORCE = "force"


@dataclass(frozen=True)
class ReadingConfig:
    """How documents are read; part of a collection's fingerprint, but for ``tessdata``.

    ``languages`` are those that documents are expected in, as codes of ISO 639-1 (``en``); empty
    means to detect them. ``ocr_languages`` are those that OCR looks for, by Tesseract's names
    (``eng``). ``tessdata`` is the folder with their data; None means to find it.
    """

    languages: tuple[str, ...] = ()
    ocr: OcrMode = OcrMode.AUTO
    ocr_languages: tuple[str, ...] = ("eng",)
    tessdata: Path | None = None


DEFAULT_READING: Final = ReadingConfig()
