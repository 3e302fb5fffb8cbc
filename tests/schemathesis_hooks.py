"""What schemathesis has to know of the API, beyond its openapi.json; see `test_openapi`."""

import uuid
from typing import Any

import schemathesis
from schemathesis import Case, HookContext, SerializationContext


@schemathesis.serializer("application/x-ndjson", "application/jsonl")
def lines(context: SerializationContext, value: Any) -> bytes:
    """A batch is sent as it was made up; it need not be made of lines."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@schemathesis.hook
def map_case(context: HookContext, case: Case[Any]) -> Case[Any]:
    """Nobody sent the idempotency key before with something else, and 1.0 is no integer.

    Integers in metadata have 64 bits, as its description says: a schema cannot, at any depth.
    """
    if case.headers and len(case.headers.get("idempotency-key", "")) in range(1, 256):
        case.headers["idempotency-key"] = uuid.uuid4().hex
    if isinstance(case.body, dict) and isinstance(version := case.body.get("version"), float):
        case.body["version"] = int(version) if version.is_integer() else version
    if isinstance(case.body, dict) and "metadata" in case.body:
        case.body["metadata"] = _in_64_bits(case.body["metadata"])
    if case.media_type == "multipart/form-data" and isinstance(case.body, dict):
        _make_form(case.body, good=case.meta is None or case.meta.generation.mode.is_positive)
    return case


def _make_form(body: dict[str, Any], *, good: bool) -> None:
    """Make a form of ``body`` that is good, or one that is not, as it arrives.

    Whatever is sent as a file is one, so what else is wrong with it does not come across. Several
    files would have the same name, and a schema cannot say that a text is JSON.
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
