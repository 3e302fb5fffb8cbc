"""The table of allowed values in docs/configuration.md. Run this module to write it there."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from ingestq.app.settings import PREFIX, Settings
from ingestq.app.settings_values import SecretPathUrl, SecretUrl

PAGE: Final = Path(__file__).parents[1] / "docs" / "configuration.md"
BEGIN: Final = "<!-- values: written by `python -m tests.settings_table` -->\n"
END: Final = "<!-- end of values -->\n"
KINDS: Final = {
    int: "integer",
    float: "number",
    Path: "path",
    str: "text",
    SecretStr: "text",
    SecretUrl: "URL",
    SecretPathUrl: "URL",
}


def table() -> str:
    """Return the table as the page has it."""
    rows = (
        f"| `{PREFIX}{name.upper()}` | {_values(field)} |\n"
        for name, field in Settings.model_fields.items()
    )
    return "| setting | values |\n|---|---|\n" + "".join(rows)


def _values(field: FieldInfo) -> str:
    annotation = field.annotation
    if any(isinstance(each, type) and issubclass(each, BaseModel) for each in _types(annotation)):
        is_list = get_origin(annotation) is not None
        return "tables, as a JSON list" if is_list else "a table, as a JSON object"
    if any(get_origin(each) is dict for each in (annotation, *get_args(annotation))):
        return "a table, as a JSON object"
    if choices := list(_choices(annotation)):
        return ", ".join(f"`{choice}`" for choice in choices)
    [kind] = [kind for each, kind in KINDS.items() if each in _types(annotation)]
    if get_origin(annotation) is tuple:
        return f"{kind}, several separated by commas"
    return kind + _bounds(field)


def _bounds(field: FieldInfo) -> str:
    least = next((bound.ge for bound in field.metadata if isinstance(bound, Ge)), None)
    most = next((bound.le for bound in field.metadata if isinstance(bound, Le)), None)
    if least is None:
        return ""
    return f", at least {least:,}" if most is None else f" from {least:,} to {most:,}"


def _choices(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif annotation is bool:
        yield from ("true", "false")
    elif isinstance(annotation, type) and issubclass(annotation, StrEnum):
        yield from (member.value for member in annotation)
    else:
        for argument in get_args(annotation):
            yield from _choices(argument)


def _types(annotation: Any) -> set[Any]:
    """Return the types of a value that is set."""
    inner = [each for each in get_args(annotation) if each not in (NoneType, Ellipsis)]
    return {each for one in inner for each in _types(one)} if inner else {annotation}


def split(page: str) -> tuple[str, str, str]:
    """Return what stands before the table, the table, and what follows it."""
    before, _, rest = page.partition(BEGIN)
    written, _, after = rest.partition(END)
    return before, written, after


if __name__ == "__main__":
    before, _, after = split(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
