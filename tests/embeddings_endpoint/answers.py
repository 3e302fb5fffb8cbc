"""Answers that are no success, in the words of those who give them."""

from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response


def of_tei(status: int, message: str, kind: str = "Validation") -> Response:
    """What text-embeddings-inference says; 413 to a request that is too large, or too long."""
    return JSONResponse({"message": message, "code": status, "type": kind}, status)


def of_openai(status: int, message: str, code: str | None = None) -> Response:
    """What OpenAI says, and in the same form vLLM and Ollama."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": error}, status)


def too_often(**headers: str) -> Response:
    """OpenAI's limit of requests is reached; ``headers`` with ``_`` for ``-``."""
    response = of_openai(429, "Rate limit reached for requests", "rate_limit_exceeded")
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


def unpaid() -> Response:
    """OpenAI's account is empty. It names no time."""
    text = "You exceeded your current quota, please check your plan and billing details."
    return of_openai(429, text, "insufficient_quota")


def unknown_model() -> Response:
    """Ollama has not pulled the model."""
    return of_openai(404, 'model "nomic" not found, try pulling it first')


def no_numbers() -> Response:
    """Ollama cannot write down a vector that is not a number."""
    return of_openai(500, "failed to encode response: json: unsupported value: NaN")


def of_a_proxy(status: int) -> Response:
    """What nginx says, before the request comes to the endpoint."""
    return PlainTextResponse(f"<html><title>{status}</title><hr>nginx</html>", status)


def answered(data: Any) -> Response:
    """A success with ``data``."""
    return JSONResponse({"object": "list", "data": data, "model": "test", "usage": {}})
