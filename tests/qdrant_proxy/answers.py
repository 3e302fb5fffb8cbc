"""Error answers with the server's own messages (Qdrant 1.16 to 1.19)."""

from starlette.responses import JSONResponse, PlainTextResponse, Response


def error_response(status: int, error: str) -> JSONResponse:
    """Return an error in the server's form."""
    return JSONResponse({"status": {"error": error}, "time": 0.0}, status)


def rate_limited(retry_after: int) -> Response:
    """Answer that the limit of writes per minute is used up."""
    response = error_response(
        429,
        "Rate limiting exceeded: Write rate limit exceeded: Operation requires 16 tokens but only "
        f"2.5 were available. Retry after {retry_after}s",
    )
    response.headers["Retry-After"] = str(retry_after)
    return response


def over_the_limit() -> Response:
    """Answer that one request exceeds the limit of writes per minute."""
    return error_response(
        429,
        "Rate limiting exceeded: Write rate limit exceeded, request larger than than rate limiter "
        "capacity, please try to split your request",
    )


def timed_out() -> Response:
    """Answer that the request timed out."""
    return error_response(408, "Timeout: Operation 'Update' timed out after 60s")


def disk_full() -> Response:
    """Answer that the disk is too full for the write-ahead log."""
    text = "No space left on device: WAL buffer size exceeds available disk space"
    return error_response(500, f"Service internal error: {text}")


def over_quota(status: int) -> Response:
    """Answer that the process uses too much memory: 400 in strict mode, 507 for a quota."""
    return error_response(
        status,
        "Bad request: Resident memory usage is at 93% of total memory, exceeding the configured "
        "limit of 90%. Help: Reduce memory usage (e.g. delete points or drop collections), or "
        "raise `max_resident_memory_percent` in the strict mode config of this collection.",
    )


def collection_full() -> Response:
    """Answer that the collection has reached its limit in strict mode."""
    return error_response(400, "Bad request: Max vector storage size limit of 10MB reached!")


def wrong_dimension() -> Response:
    """Answer that a vector has another dimension than the collection."""
    return error_response(400, "Wrong input: Vector dimension error: expected dim: 4, got 2")


def strict_mode() -> Response:
    """Answer that the request exceeds a limit of strict mode."""
    return error_response(
        400,
        'Bad request: Limit exceeded 9 > 8 for "upsert limit". Help: Reduce the "upsert limit" '
        "parameter to or below 8.",
    )


def large_condition() -> Response:
    """Answer that a filter names more points than strict mode allows."""
    text = "Condition size limit reached (16 > 4). Help: Reduce the size of your condition."
    return error_response(400, f"Bad request: {text}")


def invalid() -> Response:
    """Answer that a value in the body is invalid."""
    text = "[points[0].vector.indices: must be the same length as values]"
    return error_response(422, f"Validation error in JSON body: {text}")


def forbidden() -> Response:
    """Answer that the key may only read."""
    return error_response(403, "Forbidden: Write access to collection documents is required")


def invalid_key() -> Response:
    """Answer that the key is wrong."""
    return PlainTextResponse("Invalid API key or JWT", 401)


def of_a_proxy(status: int) -> Response:
    """Answer as nginx does in front of Qdrant."""
    return PlainTextResponse(f"<html><title>{status}</title><hr>nginx</html>", status)
