"""What browsers send when a button is pressed."""

from typing import Final
from urllib.parse import parse_qs

from fastapi import HTTPException, Request

from producers.api.intake import Intake

FORM_BYTES: Final = 1024 * 1024
"""Enough for the names of all dead letters that are shown, unless they are very long."""
MOST_FIELDS: Final = 100


async def form_fields(request: Request, intake: Intake) -> dict[str, list[str]]:
    """The values of each field of the form that is the body of ``request``.

    Raises HTTPException (422) if it is none, and what `Intake.body` raises.
    """
    async with intake.body(request) as body:
        try:
            return parse_qs(body.decode("ascii"), max_num_fields=MOST_FIELDS)
        except ValueError as error:
            raise HTTPException(422, f"the body is no form: {error}") from error
