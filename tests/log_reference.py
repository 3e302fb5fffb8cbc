"""Writes the reference in docs/logs.md from the catalogue: ``python -m tests.log_reference``."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from ingestq.core import events

PAGE: Final = Path(__file__).parents[1] / "docs" / "logs.md"
BEGIN: Final = "<!-- made by tests/log_reference.py: begin -->\n"
END: Final = "<!-- made by tests/log_reference.py: end -->\n"


def reference() -> str:
    """Return the tables of events and fields."""
    return "\n".join(_lines()) + "\n"


def page_with_reference(page: str) -> str:
    """Return ``page`` with the tables in their place."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{reference()}\n{END}{after}"


def _lines() -> Iterator[str]:
    yield "### Events\n"
    yield "| event | fields | meaning |"
    yield "|---|---|---|"
    for event in events.CATALOGUE:
        fields = ", ".join(f"`{name}`" for name in event.fields)
        yield f"| `{event}` | {fields} | {event.meaning} |"
    yield "\n### Fields\n"
    yield from _table(events.STANDARD)
    yield "\nOf lines about a job or a document, as far as known:\n"
    yield from _table(events.CONTEXT)
    yield "\nOf the events that list them:\n"
    yield from _table(events.FIELDS)


def _table(fields: Mapping[str, str]) -> Iterator[str]:
    yield "| field | holds |"
    yield "|---|---|"
    for name, meaning in fields.items():
        yield f"| `{name}` | {meaning} |"


if __name__ == "__main__":
    PAGE.write_text(page_with_reference(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
