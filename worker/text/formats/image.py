"""Reads images by OCR. A TIFF file with several pages, such as a fax, has a part for each."""

import warnings
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from typing import Final

from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from ingestq.core.errors import DocumentRejected
from worker.text.config import ReadingConfig
from worker.text.formats.pdf_page import joined, tidied
from worker.text.ocr import DPI, recognize, why_unavailable
from worker.text.parts import ExtractedDocument, Part

MAX_PIXELS: Final = 25_000_000
"""Larger images are made smaller: A2 at 200 dots per inch."""
USEFUL_SIDE: Final = 2400
"""A smaller image is taken for a picture of a screen, whose letters are small, and made larger."""
MAX_ENLARGEMENT: Final = 3.0
MAX_PAGES: Final = 5_000
MULTIPAGE: Final = frozenset({"TIFF", "MPO"})
"""Formats of which each image is a page. Those of other formats are frames of an animation."""


def read_image(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    """Return the text in an image.

    Raises DocumentRejected if it cannot be read, has no text, or OCR is not available.
    """
    if problem := why_unavailable(reading):
        raise DocumentRejected(f"it is an image: {problem}")
    try:
        with warnings.catch_warnings():  # what is large is made smaller; bombs are refused
            warnings.simplefilter("ignore")
            return _read(data, media_type, reading)
    except Image.DecompressionBombError as error:
        raise DocumentRejected(f"the image has too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise DocumentRejected(f"cannot be read as {media_type}") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's, of broken images
        raise DocumentRejected(f"cannot be read as {media_type}: {error}") from error


def _read(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    with closing(Image.open(BytesIO(data))) as image:
        count = getattr(image, "n_frames", 1) if image.format in MULTIPAGE else 1
        if count > MAX_PAGES:
            raise DocumentRejected(f"it has more than {MAX_PAGES:,} pages")
        found = [recognize(page, reading) for page in _pages(image, count)]
    parts = tuple(
        Part(joined(tidied(text)), page=number if count > 1 else None)
        for number, text in enumerate(found, 1)
        if text
    )
    languages = ", ".join(reading.ocr_languages)
    if not parts:
        raise DocumentRejected(f"OCR ({languages}) found no text in this {media_type} file")
    return ExtractedDocument(parts, warnings=tuple(_warnings(found)))


def _warnings(found: list[str | None]) -> Iterator[str]:
    total = len(found)
    if late := sum(text is None for text in found):
        yield f"OCR had no time left for {late:,} of {total:,} pages; split the document"
    if empty := sum(text == "" for text in found):
        yield f"OCR found no text on {empty:,} of {total:,} pages"


def _pages(image: Image.Image, count: int) -> Iterator[Image.Image]:
    """Yield the first ``count`` images, upright, gray on white, and of a useful size."""
    for number, frame in enumerate(ImageSequence.Iterator(image)):
        if number == count:
            return
        page = ImageOps.exif_transpose(frame)
        if page.has_transparency_data:
            page = page.convert("RGBA")
            white = Image.new("RGBA", page.size, "white")
            page = Image.alpha_composite(white, page)
        yield _scaled(page.convert("L"), frame.info.get("dpi"))


def _scaled(page: Image.Image, dpi: object) -> Image.Image:
    width, height = page.size
    declared = float(dpi[0]) if isinstance(dpi, tuple) and dpi and dpi[0] else 0.0
    useful = min(MAX_ENLARGEMENT, max(1.0, USEFUL_SIDE / max(width, height)))
    wanted = DPI / declared if declared >= DPI else useful
    factor = min(wanted, (MAX_PIXELS / (width * height)) ** 0.5)
    if factor == 1.0:
        return page
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return page.resize(size, Image.Resampling.LANCZOS)
