"""Tells schemathesis about the API what openapi.json cannot; see `test_openapi`."""

import re
import uuid
from typing import Any, Final

import schemathesis
from schemathesis import Case, HookContext, SerializationContext

from ingestq.core.documents import MAX_VERSION
from ingestq.core.versions import FIRST_ISSUED

VERSION: Final = re.compile(r"[0-9]{1,20}", re.ASCII)
DATE: Final = re.compile(r"([<>]=? *)[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:]+(Z|[+-][0-9:]+)?)?")
"""Where a filter compares with a date."""


@schemathesis.serializer("application/x-ndjson", "application/jsonl")
def lines(context: SerializationContext, value: Any) -> bytes:
    """Send a batch as it was generated: it does not have to consist of lines."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@schemathesis.hook
def map_case(context: HookContext, case: Case[Any]) -> Case[Any]:
    """Change what openapi.json cannot express.

    Idempotency keys are unique, 1.0 is no integer, integers in metadata have at most 64 bits, own
    versions are below those that are issued, and not every day of every month exists.
    """
    if case.query and isinstance(filters := case.query.get("filter"), list):
        case.query["filter"] = [_with_a_date(condition) for condition in filters]
    if case.headers and len(case.headers.get("idempotency-key", "")) in range(1, 256):
        case.headers["idempotency-key"] = uuid.uuid4().hex
    if isinstance(case.body, dict) and isinstance(version := case.body.get("version"), float):
        case.body["version"] = int(version) if version.is_integer() else version
    for part in (case.body, case.query):
        if isinstance(part, dict):
            _make_version_own(part)
    if isinstance(case.body, dict) and "metadata" in case.body:
        case.body["metadata"] = _in_64_bits(case.body["metadata"])
    if case.media_type == "multipart/form-data" and isinstance(case.body, dict):
        _make_form(case.body, good=case.meta is None or case.meta.generation.mode.is_positive)
    return case


def _make_version_own(part: dict[str, Any]) -> None:
    """Replace a version that only the server may have issued. Larger ones are wrong in any case."""
    version = str(part.get("version"))
    if VERSION.fullmatch(version) and FIRST_ISSUED <= int(version) <= MAX_VERSION:
        part["version"] = FIRST_ISSUED - 1


def _with_a_date(condition: Any) -> Any:
    """Replace a date that a filter compares with by one that exists."""
    return DATE.sub(r"\g<1>2024-05-31", condition) if isinstance(condition, str) else condition


def _make_form(body: dict[str, Any], *, good: bool) -> None:
    """Make ``body`` a valid form, or an invalid one that is also invalid once it is encoded.

    Anything that is sent as a file is a valid file, so only a missing one is wrong. Several files
    would have the same name, and a schema cannot express that a text is JSON.
    """
    if not good:
        body.pop("file", None)
        return
    del body["file"][1:]
    if "metadata" in body:
        body["metadata"] = "{}"


def _in_64_bits(value: Any) -> Any:
    match value:
        case dict():
            return {name: _in_64_bits(inner) for name, inner in value.items()}
        case list():
            return [_in_64_bits(inner) for inner in value]
        case int() if not isinstance(value, bool):
            return min(max(value, -(2**63)), 2**64 - 1)
        case _:
            return value
