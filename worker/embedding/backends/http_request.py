"""What is sent to an embeddings endpoint, apart from texts."""

import httpx

from broker.errors import UsageError


def embeddings_url(url: str) -> httpx.URL:
    """Where to send requests for the endpoint at ``url``. Raises UsageError if that is no URL."""
    try:
        parsed = httpx.URL(url.rstrip("/") + "/embeddings")
    except httpx.InvalidURL:
        parsed = httpx.URL()
    is_whole = parsed.scheme in ("http", "https") and parsed.host
    if not is_whole or parsed.query or parsed.fragment or url.rstrip("/").endswith("/embeddings"):
        raise UsageError(
            f"INGESTQ_EMBEDDINGS_URL {url!r} is not the URL of an endpoint; write the part before "
            "/embeddings, such as http://HOST:8080/v1"
        )
    return parsed


def headers(api_key: str | None) -> dict[str, str]:
    """What comes with every request. Raises UsageError if that is no key; it shows none of it."""
    sent = {"Content-Type": "application/json"}
    if api_key is None:
        return sent
    if not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise UsageError("INGESTQ_EMBEDDINGS_API_KEY has characters that no key has")
    return sent | {"Authorization": f"Bearer {api_key}"}
