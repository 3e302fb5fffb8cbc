"""The text of a sheet of a workbook, in any format."""

from collections.abc import Iterable
from typing import Final

from worker.text.formats.tables import Cells, TooManyCells, sparse_table
from worker.text.parser import MAX_TABLE_CELLS

HIDDEN_SHEET: Final = "(hidden sheet)"


class Sheet:
    """The cells of a sheet that are not blank, and its notes.

    Rows with a single cell above the first with more, such as a title, are text before the table.
    """

    def __init__(self) -> None:
        self._rows: dict[int, list[tuple[int, str]]] = {}
        self._cells = 0
        self._notes: list[str] = []

    def add(self, row: int, cells: Iterable[tuple[int, str]]) -> None:
        """Add ``cells``, of columns in any order, to ``row``. Raises TooManyCells."""
        added = list(cells)
        if added:
            self._rows.setdefault(row, []).extend(added)
            self._cells += len(added)
        if self._cells > MAX_TABLE_CELLS:
            raise TooManyCells(self._cells)

    def note(self, text: str) -> None:
        """Add a comment or the text of a box."""
        self._notes.append(text)

    def text(self, *, hidden: bool) -> str:
        """Return the sheet in Markdown, and that it is ``hidden``; "" if it is blank.

        Raises TooManyCells.
        """
        rows: list[Cells] = [sorted(self._rows[row]) for row in sorted(self._rows)]
        header = next((place for place, cells in enumerate(rows) if len(cells) > 1), 0)
        above = [" ".join(text.split()) for cells in rows[:header] for _, text in cells]
        blocks = [*filter(None, above), sparse_table(rows[header:]), *self._notes]
        said = [block for block in blocks if block]
        return "\n\n".join([HIDDEN_SHEET, *said] if hidden and said else said)
