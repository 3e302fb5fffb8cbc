"""What is in the bodies of requests."""

from typing import Any


def written(request: str, body: Any) -> list[dict[str, Any]]:
    """Return the payloads that ``request`` writes, alone or in a batch, in their order.

    ``request`` is ``METHOD /path``, with or without a query.
    """
    method, _, path = request.partition("?")[0].partition(" ")
    if method == "PUT" and path.endswith("/points"):
        return _of_operation({"upsert": body})
    if method == "POST" and path.endswith("/points/payload"):
        return _of_operation({"set_payload": body})
    if method == "POST" and path.endswith("/points/batch"):
        return [payload for each in body["operations"] for payload in _of_operation(each)]
    return []


def _of_operation(operation: dict[str, Any]) -> list[dict[str, Any]]:
    match operation:
        case {"upsert": {"points": points}}:
            return [point.get("payload") or {} for point in points]
        case {"set_payload": {"payload": payload}}:
            return [payload]
        case _:
            return []
