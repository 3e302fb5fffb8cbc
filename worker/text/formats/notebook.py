"""Reads Jupyter notebooks: their text, their code and what it printed, but no pictures."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from ingestq.core.errors import DocumentRejected
from worker.text.config import ReadingConfig
from worker.text.decoding.decode import decode
from worker.text.formats.html import read_html
from worker.text.parts import ExtractedDocument, Part

OUTPUT_CHARACTERS: Final = 20_000
"""Of each cell: logs of training runs are longer, but say the same again and again."""
CUT: Final = "[…]"
LEFT_OUT: Final = "outputs of more than {:,} characters were cut off"
ESCAPE: Final = re.compile(r"\x1b(?:\[[0-?]*+[ -/]*+[@-~]|\][^\x07\x1b]*+(?:\x07|\x1b\\)?|[@-_])")
"""Colours and moves of the cursor in a terminal."""
OVERWRITTEN: Final = re.compile(r"^[^\n]*\r(?!\n|$)", re.MULTILINE)
"""What a terminal writes over, such as a progress bar."""
DATA: Final = re.compile(r"!\[([^\[\]\n]*+)\]\(<?data:[^()]*+\)", re.IGNORECASE)
"""A picture inside Markdown."""
FIGURE: Final = re.compile(
    r"<(?:Figure size|matplotlib\.|IPython\.core\.display\.|Axes:)[^<>\n]*+>"
)
"""Says that there is a picture."""
FENCE: Final = re.compile(r"`{3,}")
HEADING_LEVELS: Final = frozenset("123456")
LANGUAGE: Final = re.compile(r"[\w+#.-]{1,40}")


def read_notebook(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    """Return the cells of the notebook ``data`` in Markdown.

    Raises DocumentRejected if it is no notebook.
    """
    decoded = decode(data, reading.languages)
    try:
        notebook = json.loads(decoded.text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise DocumentRejected(f"cannot be read as a notebook: {error}") from error
    if not isinstance(notebook, dict):
        raise DocumentRejected("cannot be read as a notebook: it has no cells")
    text = "\n\n".join(filter(None, _cells(notebook)))
    cut = (LEFT_OUT.format(OUTPUT_CHARACTERS),) if CUT in text else ()
    return ExtractedDocument((Part(text, markdown=True),), None, (*decoded.warnings, *cut))


def _cells(notebook: dict[str, Any]) -> Iterator[str]:
    language = _language(notebook)
    for sheet in (notebook, *_objects(notebook.get("worksheets"))):  # version 3 has worksheets
        for cell in _objects(sheet.get("cells")):
            source = _joined(cell.get("source", cell.get("input"))).strip("\n")
            match cell.get("cell_type"):
                case "code":
                    yield _fenced(source, language)
                    yield _outputs(cell)
                case "heading":
                    level = cell.get("level")
                    yield f"{'#' * int(level) if level in HEADING_LEVELS else '#'} {source}"
                case _:
                    yield DATA.sub(r"\1", source)


def _outputs(cell: dict[str, Any]) -> str:
    """Return what the code of ``cell`` has printed, and how it failed."""
    texts = [_output(output) for output in _objects(cell.get("outputs"))]
    return "\n\n".join(filter(None, texts))


def _output(output: dict[str, Any]) -> str:
    if output.get("output_type") in {"error", "pyerr"}:
        trace = _terminal(_joined(output.get("traceback"), "\n"))
        name, value = _joined(output.get("ename")), _joined(output.get("evalue"))
        summary = _terminal(f"{name}: {value}")
        return _fenced(trace if summary in trace else f"{trace}\n{summary}".strip())
    data = output.get("data")
    if not isinstance(data, dict):
        data = output if "text" in output else {}
    if markdown := _joined(data.get("text/markdown")).strip():
        return DATA.sub(r"\1", markdown)[:OUTPUT_CHARACTERS]
    plain = _terminal(_joined(data.get("text/plain", data.get("text"))))
    if plain := FIGURE.sub("", plain).strip("\n"):
        return _fenced(plain) if plain.strip() else ""
    if page := _joined(data.get("text/html")):
        return "\n\n".join(part.text for part in read_html(page).parts).strip()
    return _joined(data.get("text/latex")).strip()


def _terminal(text: str) -> str:
    """Return ``text`` as a terminal shows it, but no more than a limit."""
    shown = OVERWRITTEN.sub("", ESCAPE.sub("", text).replace("\r\n", "\n"))
    return shown if len(shown) <= OUTPUT_CHARACTERS else f"{shown[:OUTPUT_CHARACTERS]}\n{CUT}"


def _fenced(code: str, language: str = "") -> str:
    if not code.strip():
        return ""
    fence = "`" * (1 + max((len(found) for found in FENCE.findall(code)), default=2))
    return f"{fence}{language}\n{code}\n{fence}"


def _language(notebook: dict[str, Any]) -> str:
    metadata = notebook.get("metadata")
    for name in ("language_info", "kernelspec"):
        info = metadata.get(name) if isinstance(metadata, dict) else None
        if isinstance(info, dict):
            language = str(info.get("name" if name == "language_info" else "language", ""))
            if LANGUAGE.fullmatch(language):
                return language.lower()
    return "python"


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _joined(value: Any, separator: str = "") -> str:
    """Return a text that may be stored as a list of its lines."""
    if isinstance(value, list):
        return separator.join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""
