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
    """Nobody sent the idempotency key before with something else, and 1.0 is no integer."""
    if case.headers and len(case.headers.get("idempotency-key", "")) in range(1, 256):
        case.headers["idempotency-key"] = uuid.uuid4().hex
    if isinstance(case.body, dict) and isinstance(version := case.body.get("version"), float):
        case.body["version"] = int(version) if version.is_integer() else version
    return case
