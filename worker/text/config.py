"""How documents are read. Plain data."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple


class OcrMode(StrEnum):
    """When text in images is recognised.

    - ``auto``: on pages and images that have no text.
    - ``off``: never.
    - ``force``: on every page and image, instead of the text that the file has.
    """

    AUTO = "auto"
    OFF = "off"
    FORCE = "force"


class HookKind(StrEnum):
    """What a hook does; see `ingestq.hooks`."""

    PARSE = "parse"
    CHUNK = "chunk"
    ENRICH = "enrich"


class HookVersions(NamedTuple):
    """The name of each hook that was loaded, and its version: ``acme:parse 2``; else empty.

    Those that decide text are part of a collection's fingerprint: ``parse`` and ``chunk``.
    """

    parse: str = ""
    chunk: str = ""
    enrich: str = ""

    @property
    def of_text(self) -> tuple[str, str]:
        """Those that decide what is embedded."""
        return self.parse, self.chunk


NO_HOOKS: Final = HookVersions()


def hook_name(versioned: str) -> str | None:
    """Return the name in one of the `HookVersions`; None if that is empty."""
    return versioned.partition(" ")[0] or None


@dataclass(frozen=True)
class HooksConfig:
    """The names of the hooks: ``module:function``, or that of an entry point; None for no hook.

    Modules are also looked for in ``folder``.
    """

    parse: str | None = None
    chunk: str | None = None
    enrich: str | None = None
    folder: Path | None = None

    @property
    def names(self) -> dict[HookKind, str]:
        """The name of each hook that is configured."""
        names = {kind: getattr(self, kind.value) for kind in HookKind}
        return {kind: name for kind, name in names.items() if name is not None}


@dataclass(frozen=True)
class ReadingConfig:
    """How documents are read; part of a collection's fingerprint, but for ``tessdata``.

    ``languages`` are those that documents are expected in, as codes of ISO 639-1 (``en``); empty
    means to detect them. ``ocr_languages`` are those that OCR looks for, by Tesseract's names
    (``eng``). ``tessdata`` is the folder with their data; None means to find it. Of the ``hooks``,
    the fingerprint has the `HookVersions`.
    """

    languages: tuple[str, ...] = ()
    ocr: OcrMode = OcrMode.AUTO
    ocr_languages: tuple[str, ...] = ("eng",)
    tessdata: Path | None = None
    hooks: HooksConfig = HooksConfig()


DEFAULT_READING: Final = ReadingConfig()
