"""Hooks: how they are found, what they may return, and what enters the fingerprint."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingestq.app.settings import load_settings
from ingestq.core.documents import Document
from ingestq.core.errors import (
    DocumentRejected,
    Failure,
    HookFailed,
    HookUnavailable,
    ServiceUnavailable,
    UsageError,
    classify,
)
from ingestq.hooks import DocumentChunk, DocumentInfo, DocumentPart, ParsedDocument, hook
from tests.unit.test_chunker import MAX_TOKENS, TOKENIZER
from worker.embedding.config import ModelInfo
from worker.store.schema import fingerprint
from worker.text.chunking.chunker import Chunker
from worker.text.config import HookKind, HooksConfig, HookVersions
from worker.text.hooks import Hooks, LoadedHook, load_hooks
from worker.text.parts import NO_TEXT, ExtractedDocument, Part, PreparedDocument
from worker.text.prepare import prepare, prepare_stored

TICKET = Document(
    doc_id="t", version=1, source="17.ticket", text="Leak\nThe pump.", metadata={"a": 1}
)
MODEL = ModelInfo("m", "r", 384, 256)


def hooks_of(**functions: Callable[..., Any]) -> Hooks:
    return Hooks(
        LoadedHook(HookKind(kind), f"acme:{kind}", function, "1")
        for kind, function in functions.items()
    )


def prepared(hooks: Hooks, document: Document = TICKET) -> PreparedDocument:
    chunker = Chunker(TOKENIZER, MAX_TOKENS)
    found = prepare(document, None, 1 << 20, chunker, None, hooks=hooks)
    assert isinstance(found, PreparedDocument)
    return found


def parse(content: bytes, document: DocumentInfo) -> ParsedDocument:
    title, _, text = content.decode().partition("\n")
    return ParsedDocument([DocumentPart(text, page=3, name="note\0")], title, ["the form is old"])


def test_a_parser_of_the_user_replaces_the_built_in_one() -> None:
    found = prepared(hooks_of(parse=parse))
    [chunk] = found.first.chunks
    assert (chunk.body, chunk.context, chunk.page) == ("The pump.", "Leak › note", 3)
    assert (found.title, found.warnings) == ("Leak", ("the form is old",))
    left = prepared(hooks_of(parse=lambda content, document: None))
    assert [chunk.body for chunk in left.first.chunks] == ["Leak\nThe pump."]
    empty = prepared(hooks_of(parse=lambda content, document: ParsedDocument([])))
    assert (empty.first.chunks, empty.warnings) == ((), (NO_TEXT,))


def test_chunks_of_the_user_are_kept_as_they_are_unless_too_long() -> None:
    long = "The geese leave the lake. " * 40

    def chunk(parts: Any, document: DocumentInfo) -> Iterator[DocumentChunk]:
        yield DocumentChunk(" Short. ", "Title", 2, parts[0].name)
        yield DocumentChunk(" ")
        yield DocumentChunk(long, "Title " * 80)

    found = prepared(hooks_of(chunk=chunk))
    first, *rest = found.first.chunks
    assert (first.body, first.context, first.page) == ("Short.", "Title", 2)
    assert " ".join(chunk.body for chunk in rest) == long.strip()
    assert max(chunk.tokens for chunk in found.first.chunks) <= MAX_TOKENS
    [warning] = found.warnings
    assert warning.startswith("1 chunks of the chunk hook were cut")
    none = prepared(hooks_of(chunk=lambda parts, document: []))
    assert none.warnings == ("the chunk hook acme:chunk made no chunks of it",)


def test_metadata_comes_from_the_text_and_also_when_it_is_chunked_again() -> None:
    seen: list[object] = []

    def enrich(text: str, document: DocumentInfo) -> dict[str, object]:
        seen.append((text, dict(document.metadata), document.title))
        return {"words": len(text.split())}

    hooks = hooks_of(enrich=enrich)
    found = prepared(hooks)
    assert (found.enriched, found.enriched_by) == ({"words": 3}, "acme:enrich 1")
    stored = ExtractedDocument((Part("The pump."),), "Leak")
    again = prepare_stored(TICKET, stored, Chunker(TOKENIZER, MAX_TOKENS), None, hooks)
    assert again.enriched == {"words": 2}
    assert seen == [("Leak\nThe pump.", {"a": 1}, None), ("The pump.", {"a": 1}, "Leak")]


def raising(error: BaseException) -> Callable[..., Any]:
    def function(*_: object) -> Any:
        raise error

    return function


@pytest.mark.parametrize(
    ("kind", "result", "said"),
    [
        ("parse", "text", "a value of type str, not ParsedDocument or None"),
        ("parse", ParsedDocument("text"), "whose parts are a value of type str, not a list"),  # type: ignore[arg-type]
        ("parse", ParsedDocument([None]), "whose parts[0] is None, not DocumentPart"),  # type: ignore[list-item]
        ("parse", ParsedDocument([DocumentPart(b"x")]), "parts[0].text is a value of type bytes"),  # type: ignore[arg-type]
        ("parse", ParsedDocument([DocumentPart("x", page=0)]), "page is 0, not a number from 1"),
        ("chunk", 7, "a value of type int, not DocumentChunks in a list, or None"),
        ("chunk", ["text"], "chunks of which [0] is a value of type str, not DocumentChunk"),
        ("enrich", ["a"], "a value of type list, not a dict of metadata, or None"),
        ("enrich", {"a": b"x"}, "cannot be stored: metadata has a value of type bytes"),
        ("enrich", {"a": "x" * 70_000}, "the limit is 65,536"),
    ],
)
def test_a_wrong_result_is_rejected_with_what_was_returned(
    kind: str, result: object, said: str
) -> None:
    with pytest.raises(HookFailed) as failed:
        prepared(hooks_of(**{kind: lambda *_: result}))
    assert str(failed.value).startswith(f"the {kind} hook acme:{kind} returned ")
    assert said in str(failed.value)
    assert failed.value.__cause__ is None


def test_what_a_hook_raises_decides_what_becomes_of_the_document() -> None:
    secret = ValueError("GET https://user:hunter2@crm.example/?key=s3cret\nfailed")
    with pytest.raises(HookFailed) as failed:
        prepared(hooks_of(enrich=raising(secret)))
    assert str(failed.value) == (
        "the enrich hook acme:enrich raised ValueError: GET https://crm.example/"
    )
    assert failed.value.__cause__ is secret
    assert classify(failed.value) is Failure.PERMANENT
    with pytest.raises(HookFailed, match="raised SystemExit"):
        prepared(hooks_of(parse=raising(SystemExit(3))))
    with pytest.raises(DocumentRejected, match="rejects it: a draft") as rejected:
        prepared(hooks_of(parse=raising(DocumentRejected("a draft"))))
    assert not isinstance(rejected.value, HookFailed)
    with pytest.raises(HookUnavailable, match="acme:enrich: no answer") as away:
        prepared(hooks_of(enrich=raising(ServiceUnavailable("no answer"))))
    assert classify(away.value) is Failure.UNAVAILABLE
    with pytest.raises(MemoryError):
        prepared(hooks_of(chunk=raising(MemoryError())))


def test_hooks_that_decide_text_enter_the_fingerprint_and_others_do_not() -> None:
    plain = fingerprint(MODEL)
    of_0_1_0 = {"chunker": "content-defined/5", "extraction": 4, "sparse": "bm25/2"}
    assert msgspec.structs.replace(plain, **of_0_1_0).digest == "fa9640539553"
    assert fingerprint(MODEL, hooks=HookVersions(enrich="acme:enrich 1")).digest == plain.digest
    digests = {
        fingerprint(MODEL, hooks=hooks).digest
        for hooks in (
            HookVersions(parse="acme:f 1"),
            HookVersions(parse="acme:f 2"),
            HookVersions(chunk="acme:f 1"),
        )
    }
    assert len(digests | {plain.digest}) == 4


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for modules, which are forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def write(folder: Path, name: str, source: str) -> None:
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    sys.modules.pop(name, None)


def test_every_edit_of_the_module_is_a_new_version_unless_one_is_declared(folder: Path) -> None:
    plain = "def parse(content, document): return None\n"
    config = HooksConfig(parse="edited_hooks:parse", folder=folder)
    versions = []
    for source in (plain, plain + "# edited\n", plain):
        write(folder, "edited_hooks", source)
        versions.append(load_hooks(config).versions.parse)
    assert versions[0] == versions[2] != versions[1]
    assert versions[0].startswith("edited_hooks:parse source-")
    declared = f"from ingestq.hooks import hook\n@hook(version='2')\n{plain}"
    for source in (declared, declared + "# edited\n"):
        write(folder, "edited_hooks", source)
        assert load_hooks(config).versions == HookVersions("edited_hooks:parse 2")
    with pytest.raises(ValueError, match="no spaces"):
        hook(version="a b")


def test_an_installed_hook_is_named_by_its_entry_point(folder: Path) -> None:
    for package in ("acme-hooks", "other-hooks"):
        info = folder / f"{package.replace('-', '_')}-1.4.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.4\n")
        points = "twice = acme_installed:enrich\n" + "acme-words = acme_installed:enrich\n" * (
            package == "acme-hooks"
        )
        (info / "entry_points.txt").write_text(f"[ingestq.hooks]\n{points}")
    write(folder, "acme_installed", "def enrich(text, document): return {'n': 1}\n")
    sys.path.append(str(folder))
    hooks = load_hooks(HooksConfig(enrich="acme-words"))
    assert hooks.versions.enrich.startswith("acme-words acme-hooks-1.4-source-")
    assert prepared(hooks).enriched == {"n": 1}
    with pytest.raises(UsageError, match=r"several packages .*\(acme-hooks, other-hooks\)"):
        load_hooks(HooksConfig(enrich="twice"))
    with pytest.raises(UsageError, match=r"no installed package .*\(acme-words, twice\)"):
        load_hooks(HooksConfig(enrich="acme-wrods"))


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("no_such_module:parse", "No module named 'no_such_module'"),
        ("wrong_hooks:missing", "has no attribute 'missing'"),
        ("wrong_hooks:number", "a value of type int, not a function"),
        ("wrong_hooks:later", "is `async`; write a plain function"),
        ("wrong_hooks:lonely", "cannot be called as parse(content, document)"),
        ("raising_hooks:parse", "cannot be imported (SystemExit: 1)"),
    ],
)
def test_a_hook_that_cannot_be_used_is_an_error_at_the_start(
    folder: Path, named: str, said: str
) -> None:
    write(
        folder,
        "wrong_hooks",
        "number = 7\nasync def later(content, document): ...\ndef lonely(content): ...\n",
    )
    write(folder, "raising_hooks", "import sys; sys.exit(1)")
    with pytest.raises(UsageError) as error:
        load_hooks(HooksConfig(parse=named, folder=folder))
    assert f"the parse hook {named!r}" in str(error.value)
    assert said in str(error.value)


def test_settings_name_hooks_in_a_file_that_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "ingestq.toml"
    file.write_text('[hooks]\nparse = "acme:parse"\n')
    with pytest.raises(UsageError, match="it names hooks, which are code"):
        load_settings()
    monkeypatch.setenv("INGESTQ_CONFIG", str(file))
    monkeypatch.setenv("INGESTQ_HOOKS", '{"chunk": "acme-chunks"}')
    hooks = load_settings().reading.hooks
    assert hooks == HooksConfig("acme:parse", "acme-chunks", None, tmp_path)
    monkeypatch.delenv("INGESTQ_HOOKS")
    file.write_text('[hooks]\nparser = "acme:parse"\n')
    with pytest.raises(UsageError, match=r"there is no setting 'hooks\.parser'"):
        load_settings()
    file.write_text('[hooks]\nparse = "acme parse"\n')
    with pytest.raises(UsageError, match=r"hooks\.parse in .* is 'acme parse'"):
        load_settings()
