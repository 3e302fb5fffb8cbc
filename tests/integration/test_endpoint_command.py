"""``ingestq`` with an embeddings endpoint: no model runs on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Ingestq
from tests.embeddings_endpoint import Endpoint, answers, embeddings_endpoint
from tests.embeddings_endpoint.app import MODEL

NOTE = "The ferry to the island leaves at noon."


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with embeddings_endpoint() as running:
        yield running


@pytest.fixture
def served(ingestq: Ingestq, endpoint: Endpoint) -> Ingestq:
    """The command, configured to use the endpoint."""
    ingestq.settings["embeddings_url"] = endpoint.url
    ingestq.settings["model"] = MODEL
    ingestq.settings["embeddings_document_prompt"] = "passage: "
    return ingestq


@pytest.fixture
def note(tmp_path: Path) -> Path:
    path = tmp_path / "note.txt"
    path.write_text(NOTE, encoding="utf-8")
    return path


@pytest.mark.slow
def test_an_endpoint_embeds_documents_and_queries(
    served: Ingestq, endpoint: Endpoint, note: Path
) -> None:
    assert served("run", note, "--json").json["documents"]["indexed"] == 1
    assert [NOTE in text for asked in endpoint.asked for text in asked.texts].count(True) == 1
    asked = [text for request in endpoint.asked for text in request.texts]
    assert any(text.startswith("passage: ") and text.endswith(NOTE) for text in asked)

    [hit] = served("search", "--dense", "When does it leave?", "--json").json["hits"]
    assert hit["text"] == NOTE

    del served.settings["embeddings_document_prompt"]
    served("run", note).failed_with(2, "endpoint, with the prompt 'passage: '")


def test_a_refused_key_is_wrong_usage(served: Ingestq, endpoint: Endpoint, note: Path) -> None:
    endpoint.planned = [answers.of_openai(401, "Incorrect API key provided")]
    served("run", note).failed_with(2, "INGESTQ_EMBEDDINGS_API_KEY")


def test_an_unreachable_endpoint_has_its_exit_code(served: Ingestq, note: Path) -> None:
    served.settings["embeddings_url"] = "http://127.0.0.1:1/v1"
    served("run", note).failed_with(3, "does not answer", "INGESTQ_EMBEDDINGS_URL")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ftp://host/v1", "ftp://host/v1"),
        ("host:8080/v1", "write http://… or https://…"),  # it may be a secret
        ("http://host/v1/embeddings", "http://host/v1/embeddings"),
    ],
)
def test_an_invalid_endpoint_url_is_wrong_usage(
    served: Ingestq, note: Path, url: str, shown: str
) -> None:
    served.settings["embeddings_url"] = url
    served("run", note).failed_with(2, "INGESTQ_EMBEDDINGS_URL", shown)


def test_the_http_backend_needs_a_url(served: Ingestq, note: Path) -> None:
    del served.settings["embeddings_url"]
    served.settings["backend"] = "http"
    served("run", note).failed_with(2, "INGESTQ_BACKEND", "INGESTQ_EMBEDDINGS_URL")
