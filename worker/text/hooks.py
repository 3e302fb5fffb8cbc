"""Loads the user's hooks, calls them, and checks what they return. Runs in parse processes.

`ingestq.hooks` says what a hook takes and returns.
"""

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

from ingestq.core.documents import Document
from ingestq.core.errors import (
    DocumentRejected,
    HookFailed,
    HookUnavailable,
    ServiceUnavailable,
    UsageError,
    describe,
    encodable,
    in_one_line,
)
from ingestq.core.limits import check_metadata
from ingestq.core.named_code import load_named
from ingestq.core.unicode_forms import composed
from ingestq.core.urls import without_secrets
from ingestq.hooks import (
    HOOK_VERSION,
    VERSION_ATTRIBUTE,
    DocumentChunk,
    DocumentInfo,
    DocumentPart,
    ParsedDocument,
)
from worker.process_pool.process import starting_step, step
from worker.text.config import NO_HOOKS, HookKind, HooksConfig, HookVersions
from worker.text.decoding.cleaning import is_blank
from worker.text.parts import NO_TEXT, ExtractedDocument, Part, bounded_sentence

GROUP: Final = "ingestq.hooks"
"""The group of the entry points."""
LOAD_SECONDS: Final = 120.0
"""A hook whose module takes longer to be imported hangs."""
PARAMETERS: Final = {
    HookKind.PARSE: ("content", "document"),
    HookKind.CHUNK: ("parts", "document"),
    HookKind.ENRICH: ("text", "document"),
}
DIGEST_BYTES: Final = 6
PLACE_NAME_CHARACTERS: Final = 1000
"""Longest title, or name of a part: each is stored with every chunk."""

T = TypeVar("T")


@dataclass(frozen=True)
class LoadedHook:
    """A hook: its function, and its version as it enters the fingerprint."""

    kind: HookKind
    name: str
    function: Callable[..., Any]
    version: str

    def __str__(self) -> str:
        return f"the {self.kind} hook {self.name}"

    def call(self, take: Callable[[Any], T], *arguments: object) -> T:
        """Return what ``take`` makes of the result.

        ``take`` may still run the user's code, for a generator. Raises HookFailed if that raises,
        or if ``take`` raises _WrongResult.
        """
        with step(str(self)):
            try:
                return take(self.function(*arguments))
            except MemoryError:
                raise
            except _WrongResult as wrong:
                raise HookFailed(f"{self} returned {bounded_sentence(str(wrong))}") from None
            except DocumentRejected as rejection:
                reason = bounded_sentence(describe(rejection))
                raise DocumentRejected(f"{self} rejects it: {reason}") from None
            except ServiceUnavailable as error:
                raise HookUnavailable(f"{self}: {_public(describe(error))}") from None
            except BaseException as error:  # a library's panic is no Exception
                raise HookFailed(f"{self} raised {_public(in_one_line(error))}") from error


class _WrongResult(Exception):
    """A hook returned something else than it should; the message says what, and what it should."""


def _public(message: str) -> str:
    return bounded_sentence(without_secrets(message))


@dataclass(frozen=True)
class HookChunks:
    """The chunks that a hook has made, without NUL and in NFC, and warnings about them."""

    chunks: tuple[DocumentChunk, ...]
    warnings: tuple[str, ...] = ()


class Hooks:
    """The hooks of this process. Each method does nothing if there is no such hook."""

    def __init__(self, hooks: Iterable[LoadedHook] = ()) -> None:
        self._hooks = {hook.kind: hook for hook in hooks}
        versions = {hook.kind.value: f"{hook.name} {hook.version}" for hook in self._hooks.values()}
        self.versions = HookVersions(**versions) if versions else NO_HOOKS

    @property
    def need_all_text(self) -> bool:
        """True if documents have to be read as a whole."""
        return bool(self._hooks)

    def parse(
        self, content: bytes, document: Document, media_type: str | None
    ) -> ExtractedDocument | None:
        """Return what the hook reads in ``content``; None if it leaves that to the parser.

        Raises HookFailed, DocumentRejected and HookUnavailable.
        """
        hook = self._hooks.get(HookKind.PARSE)
        if hook is None or not content.strip():
            return None
        return hook.call(_taken_document, content, _info(document, media_type, None))

    def chunk(
        self, document: Document, extracted: ExtractedDocument, title: str | None
    ) -> HookChunks | None:
        """Return the chunks that the hook makes; None if it leaves that to the chunker.

        Raises HookFailed, DocumentRejected and HookUnavailable.
        """
        hook = self._hooks.get(HookKind.CHUNK)
        if hook is None or is_blank(extracted.text):
            return None
        parts = [
            DocumentPart(part.text, part.markdown, part.page, part.name) for part in extracted.parts
        ]
        info = _info(document, document.media_type, title)
        chunks = hook.call(_taken_chunks, parts, info)
        if chunks is None:
            return None
        kept = tuple(chunk for chunk in chunks if chunk.body)
        return HookChunks(kept, () if kept else (f"{hook} made no chunks of it",))

    def enrich(
        self, document: Document, extracted: ExtractedDocument, title: str | None
    ) -> dict[str, Any]:
        """Return the metadata that the hook adds. Raises as `chunk` does."""
        hook = self._hooks.get(HookKind.ENRICH)
        if hook is None or is_blank(extracted.text):
            return {}
        take = partial(_taken_metadata, document.metadata)
        info = _info(document, document.media_type, title)
        return hook.call(take, extracted.text, info)


NO_LOADED_HOOKS: Final = Hooks()


def _info(document: Document, media_type: str | None, title: str | None) -> DocumentInfo:
    return DocumentInfo(
        doc_id=document.doc_id,
        source=document.source,
        tenant=document.tenant,
        media_type=media_type,
        metadata=dict(document.metadata),
        title=title,
    )


# What hooks return.


def _taken_document(result: object) -> ExtractedDocument | None:
    if result is None:
        return None
    if not isinstance(result, ParsedDocument):
        raise _WrongResult(f"{_kind(result)}, not ParsedDocument or None")
    where = "a ParsedDocument"
    parts = tuple(
        _taken_part(f"{where} whose parts[{i}]", part)
        for i, part in enumerate(_items(f"{where} whose parts are", result.parts))
    )
    title = _text_or_none(f"{where} whose title", result.title)
    warnings = tuple(
        _text(f"{where} whose warnings[{i}]", warning)
        for i, warning in enumerate(_items(f"{where} whose warnings are", result.warnings))
    )
    extracted = ExtractedDocument(parts, title, warnings)
    if is_blank(extracted.text):
        return ExtractedDocument((), title, (*warnings, NO_TEXT))
    return extracted


def _taken_part(where: str, part: object) -> Part:
    if not isinstance(part, DocumentPart):
        raise _WrongResult(f"{where} is {_kind(part)}, not DocumentPart")
    return Part(
        _text(f"{where}.text", part.text),
        bool(part.markdown),
        _page(f"{where}.page", part.page),
        _text_or_none(f"{where}.name", part.name),
    )


def _taken_chunks(result: object) -> list[DocumentChunk] | None:
    if result is None:
        return None
    if isinstance(result, str | bytes | Mapping) or not isinstance(result, Iterable):
        raise _WrongResult(f"{_kind(result)}, not DocumentChunks in a list, or None")
    return [_taken_chunk(f"chunks of which [{i}]", chunk) for i, chunk in enumerate(result)]


def _taken_chunk(where: str, chunk: object) -> DocumentChunk:
    if not isinstance(chunk, DocumentChunk):
        raise _WrongResult(f"{where} is {_kind(chunk)}, not DocumentChunk")
    return DocumentChunk(
        _text(f"{where}.body", chunk.body).strip(),
        _text(f"{where}.context", chunk.context).strip(),
        _page(f"{where}.page", chunk.page),
        _text_or_none(f"{where}.part", chunk.part),
    )


def _taken_metadata(given: dict[str, Any], result: object) -> dict[str, Any]:
    if result is None:
        return {}
    if not isinstance(result, Mapping):
        raise _WrongResult(f"{_kind(result)}, not a dict of metadata, or None")
    metadata = dict(result)
    try:
        check_metadata(metadata)
        check_metadata({**given, **metadata})
    except (TypeError, ValueError) as error:
        raise _WrongResult(f"metadata that cannot be stored: {error}") from None
    return metadata


def _items(where: str, values: object) -> Sequence[object]:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise _WrongResult(f"{where} {_kind(values)}, not a list")
    return list(values)


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise _WrongResult(f"{where} is {_kind(value)}, not str")
    return composed(encodable(value).replace("\0", ""))


def _text_or_none(where: str, value: object) -> str | None:
    if value is None:
        return None
    return _text(where, value)[:PLACE_NAME_CHARACTERS].strip() or None


def _page(where: str, value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
        shown = f"{value}" if isinstance(value, int) else _kind(value)
        raise _WrongResult(f"{where} is {shown}, not a number from 1, or None")
    return value


def _kind(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


# How hooks are found.


def load_hooks(config: HooksConfig) -> Hooks:
    """Import the hooks that ``config`` names. Runs their modules.

    Raises UsageError if one cannot be imported, or is no function that can be called as a hook.
    """
    if not config.names:
        return NO_LOADED_HOOKS
    # Behind installed modules, which the parser imports when it needs them.
    if config.folder is not None and str(config.folder) not in sys.path:
        sys.path.append(str(config.folder))
    return Hooks(_load_hook(kind, name) for kind, name in config.names.items())


def _load_hook(kind: HookKind, name: str) -> LoadedHook:
    what = f"the {kind} hook"
    with starting_step(f"{what} {name}", LOAD_SECONDS):
        if ":" in name:
            function, installed = load_named(what, name), None
            module = name.partition(":")[0]
        else:
            entry = _entry_point(what, name)
            function = load_named(what, entry.value)
            installed, module = entry.dist, entry.module
    called = f"{what} {name!r}"
    _check_function(kind, called, function)
    version = getattr(function, VERSION_ATTRIBUTE, None)
    if version is None:
        release = "" if installed is None else f"{installed.name}-{installed.version}-"
        version = release + _source_digest(called, function, sys.modules[module])
    if not isinstance(version, str) or not HOOK_VERSION.fullmatch(version):
        version = _digest(str(version).encode())
    return LoadedHook(kind, name, function, version)


def _entry_point(what: str, name: str) -> EntryPoint:
    found = entry_points(group=GROUP, name=name)
    if len(found) == 1:
        return next(iter(found))
    if not found:
        known = ", ".join(sorted(entry_points(group=GROUP).names)) or "there are none"
        raise UsageError(
            f"{what} is {name!r}, but no installed package has an entry point of this name in the "
            f"group {GROUP!r} ({known}); write package.module:function, or install the package"
        )
    packages = ", ".join(sorted(each.dist.name for each in found if each.dist is not None))
    raise UsageError(
        f"{what} is {name!r}, which several packages have as an entry point ({packages}); write "
        "package.module:function"
    )


def _check_function(kind: HookKind, called: str, function: object) -> None:
    if not callable(function):
        raise UsageError(f"{called} is {_kind(function)}, not a function")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"{called} is `async`; write a plain function, which runs in a process")
    try:
        inspect.signature(function).bind(*PARAMETERS[kind])
    except ValueError:
        return  # a built-in without a signature
    except TypeError as error:
        wanted = f"{kind}({', '.join(PARAMETERS[kind])})"
        raise UsageError(f"{called} cannot be called as {wanted}: {error}") from error


def _source_digest(called: str, function: object, named: ModuleType) -> str:
    """Return a digest of the source of the module in which ``function`` is defined."""
    defined = sys.modules.get(getattr(function, "__module__", ""), named)
    module = defined if inspect.isfunction(function) else named
    source = inspect.getsourcefile(module) if getattr(module, "__file__", None) else None
    try:
        content = Path(source or "").read_bytes()
    except OSError as error:
        raise UsageError(
            f"the source of {called} cannot be read, so its version is unknown; declare it with "
            "@ingestq.hooks.hook(version=…)"
        ) from error
    return f"source-{_digest(content)}"


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()
