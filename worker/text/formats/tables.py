"""Writes rows of cells as a table in Markdown."""

from collections.abc import Iterable, Sequence

from worker.text.parser import MAX_TABLE_CELLS

Cells = Sequence[tuple[int, str]]
"""The cells of a row: number of the column, in rising order, and text. Blank ones may be absent."""


class TooManyCells(Exception):
    """A table has too many cells, or too many blank ones between them. The message says so."""

    def __init__(self, cells: int) -> None:
        super().__init__(f"{cells:,} cells; the limit is {MAX_TABLE_CELLS:,}")


def table(rows: Iterable[Sequence[str]]) -> str:
    """Return a table of ``rows``, as `sparse_table` does."""
    return sparse_table(list(enumerate(row)) for row in rows)


def sparse_table(rows: Iterable[Cells]) -> str:
    """Return a table of ``rows``, the first of which is its header; "" if there is no text.

    Blank rows, blank columns, and blank cells at the end of a row are left out. The text of a cell
    is on one line, and its pipes are escaped. Raises TooManyCells.
    """
    on_one_line = (
        [(column, line) for column, text in cells if (line := _line(text))] for cells in rows
    )
    filled = [cells for cells in on_one_line if cells]
    if not filled:
        return ""
    columns = sorted({column for cells in filled for column, _ in cells})
    places = {column: place for place, column in enumerate(columns)}
    written = sum(places[cells[-1][0]] + 1 for cells in filled)
    if written > MAX_TABLE_CELLS:
        raise TooManyCells(written)
    lines = [_row(cells, places) for cells in filled]
    missing = len(columns) - places[filled[0][-1][0]] - 1
    lines[0] += "  |" * missing  # a header has all columns
    lines.insert(1, "|" + " --- |" * len(columns))
    return "\n".join(lines)


def _row(cells: Cells, places: dict[int, int]) -> str:
    written, line = 0, "|"
    for column, text in cells:
        line += "  |" * (places[column] - written) + f" {text} |"
        written = places[column] + 1
    return line


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
