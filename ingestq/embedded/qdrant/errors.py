"""What a request is refused with: Qdrant's statuses and messages."""

import re
from pathlib import Path
from typing import Final

NO_SPACE: Final = "No space left on device"


class Refused(Exception):
    """Raised for a request that Qdrant answers with the error ``status``."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def malformed(text: str) -> Refused:
    """Return the error for a body, or a value in it, that cannot be read."""
    return Refused(400, f"Format error in JSON body: {text}")


def invalid(text: str) -> Refused:
    """Return the error for a value that is out of its limits."""
    return Refused(422, f"Validation error in JSON body: [{text}]")


def wrong_input(text: str) -> Refused:
    """Return the error for a request that does not fit the collection."""
    return Refused(400, f"Wrong input: {text}")


def bad_request(text: str) -> Refused:
    """Return the error for a request that makes no sense as a whole."""
    return Refused(400, f"Bad request: {text}")


def not_found(text: str) -> Refused:
    """Return the error for something that does not exist."""
    return Refused(404, f"Not found: {text}")


def unsupported(what: str) -> Refused:
    """Return the error for what only a Qdrant server can do."""
    return Refused(501, f"the bundled Qdrant does not support {what}; use a Qdrant server")


def unknown_vector(name: str) -> Refused:
    """Return the error for a vector name that the collection does not have."""
    return wrong_input(f"Not existing vector name error: {name}")


def damaged(folder: Path, reason: str) -> Refused:
    """Return the error for a collection whose files cannot be read."""
    return Refused(
        500,
        f"Service internal error: the index in {folder} is damaged ({reason}); stop ingestq, move "
        "that folder away, and run `ingestq verify --repair` with the folders of your sources, or "
        "index them again",
    )


ENGINE_ERRORS: Final = (
    (
        re.compile(r"No space left on device|os error 28"),
        500,
        f"Service internal error: {NO_SPACE}",
    ),
    (re.compile(r"No point with id .*"), 404, r"Not found: \g<0> found"),
    (
        re.compile(r"(Vector dimension error|Not existing vector name error): .*"),
        400,
        "Wrong input: ",
    ),
    (re.compile(r"Wrong usage of sparse vectors"), 400, "Wrong input: "),
    (re.compile(r"No (range|appropriate) index for .*", re.DOTALL), 400, "Bad request: "),
    (re.compile(r"Validation failed: .*"), 400, "Wrong input: "),
    (
        re.compile(r"invalid JSON path .*|failed to parse date-time: .*"),
        400,
        "Format error in JSON body: ",
    ),
)
"""What the engine says, as the status and the text of Qdrant's answer; a text that ends in a space
comes before the engine's own."""


def engine_error(error: BaseException) -> Refused:
    """Return the answer for an error that the engine raised: text without a type."""
    text = str(error)
    if isinstance(error, OverflowError):  # an integer that the engine cannot hold
        return malformed(text)
    for pattern, status, answer in ENGINE_ERRORS:
        if found := pattern.search(text):
            return Refused(
                status, answer + found[0] if answer.endswith(" ") else found.expand(answer)
            )
    return Refused(500, f"Service internal error: {text}")
