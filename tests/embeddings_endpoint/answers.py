"""Error answers with the messages of real services."""

from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response


def of_tei(status: int, message: str, kind: str = "Validation") -> Response:
    """Answer as text-embeddings-inference does: 413 to too many texts, or one that is too long."""
    return JSONResponse({"message": message, "code": status, "type": kind}, status)


def of_openai(status: int, message: str, code: str | None = None) -> Response:
    """Answer as OpenAI does, whose form vLLM and Ollama share."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": error}, status)


def too_often(**headers: str) -> Response:
    """Answer that OpenAI's rate limit is reached; ``headers`` with ``_`` for ``-``."""
    response = of_openai(429, "Rate limit reached for requests", "rate_limit_exceeded")
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


def unpaid() -> Response:
    """Answer that the OpenAI account has no credit, without a Retry-After."""
    text = "You exceeded your current quota, please check your plan and billing details."
    return of_openai(429, text, "insufficient_quota")


def unknown_model() -> Response:
    """Answer that Ollama has not pulled the model."""
    return of_openai(404, 'model "nomic" not found, try pulling it first')


def no_numbers() -> Response:
    """Answer that Ollama cannot encode a vector with NaN."""
    return of_openai(500, "failed to encode response: json: unsupported value: NaN")


def of_a_proxy(status: int) -> Response:
    """Answer as nginx does in front of the endpoint."""
    return PlainTextResponse(f"<html><title>{status}</title><hr>nginx</html>", status)


def answered(data: Any) -> Response:
    """Answer with success and ``data``."""
    return JSONResponse({"object": "list", "data": data, "model": "test", "usage": {}})
