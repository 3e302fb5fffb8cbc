"""A notebook says what its author wrote and what its code printed, and shows no pictures."""

import json
from typing import Any, Final

import pytest

from ingestq.core.paths import guess_media_type
from worker.text.extract import extract

PNG: Final = "iVBORw0KGgoAAAANSUhEUgAA" * 200


def notebook(*cells: dict[str, Any], **metadata: Any) -> bytes:
    content = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content).encode()


def code(source: str, *outputs: dict[str, Any]) -> dict[str, Any]:
    return {"cell_type": "code", "source": source.splitlines(keepends=True), "outputs": outputs}


def read(data: bytes) -> str:
    [part] = extract(data, guess_media_type("tide.ipynb")).parts
    assert part.markdown
    return part.text


def test_cells_and_outputs_are_read() -> None:
    text = read(
        notebook(
            {"cell_type": "markdown", "source": ["# Tide forecast\n", "\n", "The *Marrow* gauge."]},
            code(
                "print(amplitude)",
                {"output_type": "stream", "name": "stdout", "text": ["M2 amplitude 1.84 m\n"]},
                {
                    "output_type": "display_data",
                    "data": {"image/png": PNG, "text/plain": ["<Figure size 640x480 with 1 Axes>"]},
                },
            ),
            code(
                "plot(residuals)",
                {
                    "output_type": "error",
                    "ename": "KeyError",
                    "evalue": "'residuals'",
                    "traceback": ["\x1b[0;31mKeyError\x1b[0m: 'residuals'"],
                },
            ),
            code(
                "frame",
                {
                    "output_type": "execute_result",
                    "data": {"text/html": "<table><td>34</table>", "text/plain": "   geese\n0  34"},
                },
            ),
            {"cell_type": "markdown", "source": f"![plot](data:image/png;base64,{PNG}) after"},
            language_info={"name": "python"},
        )
    )
    assert text == (
        "# Tide forecast\n\nThe *Marrow* gauge.\n\n"
        "```python\nprint(amplitude)\n```\n\n```\nM2 amplitude 1.84 m\n```\n\n"
        "```python\nplot(residuals)\n```\n\n```\nKeyError: 'residuals'\n```\n\n"
        "```python\nframe\n```\n\n```\n   geese\n0  34\n```\n\n"
        "plot after"
    )


def test_progress_bars_and_long_outputs_are_shortened() -> None:
    bar = "".join(f"\rstep {step}" for step in range(100))
    lines = "the same line again\n" * 10_000
    data = notebook(
        code("train()", {"output_type": "stream", "text": f"{bar}\n"}),
        code("more()", {"output_type": "stream", "text": lines}),
    )
    text = read(data)
    assert "step 99" in text
    assert "step 98" not in text
    assert len(text) < 25_000
    assert extract(data, guess_media_type("a.ipynb")).warnings == (
        "outputs of more than 20,000 characters were cut off",
    )


def test_code_with_fences_stays_code() -> None:
    text = read(notebook(code('print("""\n```\n# no heading\n```\n""")'), language_info={}))
    assert text.startswith("````python\n")
    assert text.endswith("\n````")


def test_an_old_notebook_is_read() -> None:
    cells = [
        {"cell_type": "heading", "level": 2, "source": "Tides"},
        {
            "cell_type": "code",
            "input": "print(1)",
            "outputs": [
                {"output_type": "stream", "text": "one"},
                {"output_type": "pyout", "text": "two"},
                {"output_type": "pyerr", "ename": "E", "evalue": "three", "traceback": []},
            ],
        },
    ]
    text = read(json.dumps({"worksheets": [{"cells": cells}], "nbformat": 3}).encode())
    assert text.split("\n\n") == [
        "## Tides",
        "```python\nprint(1)\n```",
        *(f"```\n{output}\n```" for output in ("one", "two", "E: three")),
    ]


@pytest.mark.parametrize("data", [b'{"cells": [', b"[]", b'{"cells":' + b"[" * 100_000])
def test_what_is_no_notebook_is_read_as_text_and_said(data: bytes) -> None:
    extracted = extract(data, guess_media_type("a.ipynb"))
    assert extracted.text == data.decode()
    assert "cannot be read as a notebook" in extracted.warnings[0]
