"""Known-item sets: documents, and questions that each one document answers.

What a question says is not in the text that is indexed: a docstring's first line and the
description of a man page are removed from it. The Korean and Japanese sets are in
``benchmarks/sets``.
"""

import ast
import gzip
import os
import random
import re
import shutil
import subprocess
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from benchmarks.embedding.corpus import SKIPPED_FOLDERS
from ingestq.app.questions import Question
from ingestq.core.documents import Document

SEED: Final = 20
MARKDOWN: Final = "text/markdown"
PLAIN_TEXT: Final = "text/plain"
WRITTEN: Final = Path(__file__).parent / "sets"
FEWEST_WORDS: Final = 4
"""A shorter first line or description does not say what it describes."""
FEWEST_CHARACTERS: Final = 1500
"""Of a module or a man page: a shorter one is hardly more than its names."""
MOST_CHARACTERS: Final = 50_000
"""Of a module or a man page: a few longer ones would be most of the chunks."""
QUESTIONS_PER_MODULE: Final = 3
MAN_PAGES: Final = "/usr/share/man"
MAN_SECTIONS: Final = range(1, 9)
MAN_SECONDS: Final = 20
PAGES_PER_PROGRAM: Final = 5
"""Most pages whose names begin with the same word, as those of git's commands: some programs have
thousands that say nearly the same."""
WORD: Final = re.compile(r"[A-Za-z0-9]+")
NAME_SECTION: Final = re.compile(r"^NAME\n((?:[ \t]+\S.*\n|\n)+)", re.MULTILINE)
DASH: Final = re.compile(r"\s+(?:-+|[\u2010-\u2014])\s+")


@dataclass(frozen=True)
class KnownItemSet:
    """Documents, and the questions on them by kind."""

    name: str
    documents: Sequence[Document]
    questions: Mapping[str, Sequence[Question]]


def docstrings(most: int) -> KnownItemSet:
    """Return docs of up to ``most`` modules of the standard library; the questions are first lines.

    A first line that occurs twice is no question.
    """
    modules = dict(_modules())
    first_lines = Counter(
        first for strings in modules.values() for first in map(_first_line, strings) if first
    )
    names = list(modules)
    random.Random(SEED).shuffle(names)  # noqa: S311 - a benchmark
    documents: list[Document] = []
    questions: list[Question] = []
    for name in names:
        if len(documents) == most:
            break
        usable = [
            string
            for string in modules[name]
            if first_lines[first := _first_line(string)] == 1 and len(first.split()) >= FEWEST_WORDS
        ]
        asked = random.Random(name).sample(usable, min(len(usable), QUESTIONS_PER_MODULE))  # noqa: S311
        text = "\n\n".join([f"# {name}", *(_described(s, s in asked) for s in modules[name])])
        if asked and FEWEST_CHARACTERS <= len(text) <= MOST_CHARACTERS:
            doc_id = f"docstrings/{name}.md"
            documents.append(_document(doc_id, text, MARKDOWN))
            questions += [Question(0, _first_line(string), (doc_id,)) for string in asked]
    return KnownItemSet("docstrings", documents, {"first line": questions})


class _Docstring(NamedTuple):
    name: str
    text: str


def _modules() -> Iterator[tuple[str, list[_Docstring]]]:
    """Yield the modules of the standard library, each with all docstrings in it."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if not SKIPPED_FOLDERS.isdisjoint(parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:
            continue
        found = list(_docstrings(tree, ""))
        if found:
            yield ".".join(parts), found


def _docstrings(node: ast.AST, name: str) -> Iterator[_Docstring]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield _Docstring(name, text)
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _docstrings(child, f"{name}.{child.name}" if name else child.name)


def _first_line(docstring: _Docstring) -> str:
    """Return the first line if it is a paragraph, as it should be (PEP 257); else nothing."""
    first, _, rest = docstring.text.partition("\n")
    return "" if rest.partition("\n")[0].strip() else first.strip()


def _described(docstring: _Docstring, asked: bool) -> str:
    text = docstring.text.partition("\n")[2].strip() if asked else docstring.text
    heading = [f"## {docstring.name}"] if docstring.name else []
    return "\n\n".join([*heading, text]).rstrip()


def man_pages(most: int) -> KnownItemSet:
    """Return up to ``most`` English man pages; the questions are their descriptions in NAME."""
    paths = [
        path
        for section in MAN_SECTIONS
        for path in sorted(Path(MAN_PAGES, f"man{section}").glob("*"))
        if path.is_file() and not path.is_symlink()
    ]
    random.Random(SEED).shuffle(paths)  # noqa: S311 - a benchmark
    paths = list(_few_of_a_program(paths))
    documents: dict[str, Document] = {}
    questions: list[Question] = []
    asked: set[str] = set()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        # A few at a time, because most pages are not needed.
        for start in range(0, len(paths), most):
            for path, text in threads.map(_rendered, paths[start : start + most]):
                page = _without_description(text)
                doc_id = f"man/{path.name.removesuffix('.gz')}"
                if page is None or page[1] in asked or len(documents) == most:
                    continue
                documents[doc_id] = _document(doc_id, page[0], PLAIN_TEXT)
                questions.append(Question(0, page[1], (doc_id,)))
                asked.add(page[1])
            if len(documents) == most:
                break
    return KnownItemSet("man pages", tuple(documents.values()), {"description": questions})


def _few_of_a_program(paths: Iterable[Path]) -> Iterator[Path]:
    pages: Counter[str] = Counter()
    for path in paths:
        word = WORD.search(path.name)
        program = word[0].lower() if word else path.name
        pages[program] += 1
        if pages[program] <= PAGES_PER_PROGRAM:
            yield path


def _rendered(path: Path) -> tuple[Path, str]:
    """Return a man page as a terminal shows it; empty if it cannot be, or refers to another."""
    program = shutil.which("man")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            refers = file.read(4) == b".so "
        if program is None or refers:
            return path, ""
        shown = subprocess.run(  # noqa: S603 - a page of this machine
            [program, "--no-hyphenation", "--no-justification", "-P", "cat", "-l", str(path)],
            env=os.environ | {"MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
            capture_output=True,
            timeout=MAN_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return path, ""
    return path, shown.stdout.decode(errors="replace")


def _without_description(page: str) -> tuple[str, str] | None:
    """Return the page without its description, and the description; None if it has none."""
    found = NAME_SECTION.search(page)
    if found is None or not FEWEST_CHARACTERS <= len(page) <= MOST_CHARACTERS:
        return None
    section = " ".join(found[1].split())
    names, dash, description = _cut(section)
    if not dash or len(description.split()) < FEWEST_WORDS:
        return None
    rest = f"{page[: found.start(1)]}       {names}\n\n{page[found.end(1) :]}"
    again = re.compile(r"\s+".join(map(re.escape, description.split())))
    return again.sub("", rest), description


def _cut(section: str) -> tuple[str, str, str]:
    parts = DASH.split(section, maxsplit=1)
    return (parts[0], "-", parts[1]) if len(parts) > 1 else (section, "", "")


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document of ``benchmarks/sets`` with ``questions`` on it, and ``words`` that only it has.

    The Korean words have a particle that they do not have in the document, the Japanese words are
    parts of longer ones.
    """

    doc_id: str
    text: str
    questions: list[str]
    words: list[str]


def written(name: str) -> KnownItemSet:
    """Return a set of ``benchmarks/sets``."""
    decoder = msgspec.json.Decoder(_Written)
    lines = decoder.decode_lines((WRITTEN / f"{name}.jsonl").read_bytes())
    by_id = {f"{name}/{line.doc_id}.md": line for line in lines}
    return KnownItemSet(
        name,
        [_document(doc_id, line.text, MARKDOWN) for doc_id, line in by_id.items()],
        {
            "question": [Question(0, q, (d,)) for d, line in by_id.items() for q in line.questions],
            "word": [Question(0, word, (d,)) for d, line in by_id.items() for word in line.words],
        },
    )


def _document(doc_id: str, text: str, media_type: str) -> Document:
    """Return a document as if it were a file in a folder that is indexed with ``--source``."""
    return Document(doc_id=doc_id, version=1, source=doc_id, text=text, media_type=media_type)
