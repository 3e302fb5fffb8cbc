"""Answers of the server that are no success, in its own words (Qdrant 1.16 to 1.19)."""

from starlette.responses import JSONResponse, PlainTextResponse, Response


def error_response(status: int, error: str) -> JSONResponse:
    """An error as the server puts it."""
    return JSONResponse({"status": {"error": error}, "time": 0.0}, status)


def rate_limited(retry_after: int) -> Response:
    """The limit of writes in a minute is used up."""
    response = error_response(
        429,
        "Rate limiting exceeded: Write rate limit exceeded: Operation requires 16 tokens but only "
        f"2.5 were available. Retry after {retry_after}s",
    )
    response.headers["Retry-After"] = str(retry_after)
    return response


def over_the_limit() -> Response:
    """One request costs more than the limit of writes in a minute."""
    return error_response(
        429,
        "Rate limiting exceeded: Write rate limit exceeded, request larger than than rate limiter "
        "capacity, please try to split your request",
    )


def timed_out() -> Response:
    """The server gave up."""
    return error_response(408, "Timeout: Operation 'Update' timed out after 60s")


def disk_full() -> Response:
    """There is less room on the disk than the write-ahead log needs."""
    text = "No space left on device: WAL buffer size exceeds available disk space"
    return error_response(500, f"Service internal error: {text}")


def over_quota(status: int) -> Response:
    """The process has more memory than it is allowed: 400 in strict mode, 507 by a quota."""
    return error_response(
        status,
        "Bad request: Resident memory usage is at 93% of total memory, exceeding the configured "
        "limit of 90%. Help: Reduce memory usage (e.g. delete points or drop collections), or "
        "raise `max_resident_memory_percent` in the strict mode config of this collection.",
    )


def collection_full() -> Response:
    """The collection has grown to what strict mode allows it."""
    return error_response(400, "Bad request: Max vector storage size limit of 10MB reached!")


def wrong_dimension() -> Response:
    """A vector does not fit the collection."""
    return error_response(400, "Wrong input: Vector dimension error: expected dim: 4, got 2")


def strict_mode() -> Response:
    """A request is more than strict mode allows."""
    return error_response(
        400,
        'Bad request: Limit exceeded 9 > 8 for "upsert limit". Help: Reduce the "upsert limit" '
        "parameter to or below 8.",
    )


def large_condition() -> Response:
    """A filter names more points than strict mode allows."""
    text = "Condition size limit reached (16 > 4). Help: Reduce the size of your condition."
    return error_response(400, f"Bad request: {text}")


def invalid() -> Response:
    """The form of the body is right, a value in it is not."""
    text = "[points[0].vector.indices: must be the same length as values]"
    return error_response(422, f"Validation error in JSON body: {text}")


def forbidden() -> Response:
    """The key may only read."""
    return error_response(403, "Forbidden: Write access to collection documents is required")


def invalid_key() -> Response:
    """The key is not, or no longer, the right one."""
    return PlainTextResponse("Invalid API key or JWT", 401)


def of_a_proxy(status: int) -> Response:
    """What nginx says, before the request comes to Qdrant."""
    return PlainTextResponse(f"<html><title>{status}</title><hr>nginx</html>", status)
