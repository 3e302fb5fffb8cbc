"""Decides whose requests are answered: tokens, sessions of the dashboard, and who needs none."""

import asyncio
import hmac
import math
import time
from collections.abc import Awaitable
from typing import Final, TypeVar, cast

from fastapi import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Scope

from ingestq.broker.tokens import Admission, ApiTokens, RequestRate
from ingestq.core.errors import BrokerUnavailable, ServiceUnavailable, UsageError
from ingestq.core.outages import note_failure
from ingestq.core.tokens import UNLIMITED, Principal
from ingestq.monitoring.health_checks import PROBE_SECONDS

PRINCIPAL: Final = "ingestq.principal"
"""The key of the `Principal` in the scope of a request. No client can set it."""
LOOK_SECONDS: Final = 1.0
"""How soon after the first token was made, requests without one are refused."""
LOOK_AGAIN_SECONDS: Final = 5.0
"""How soon Redis is asked again if it did not answer: somebody waits for it each time."""
LONGEST_LOOK_SECONDS: Final = 1.0

T = TypeVar("T")


def principal_of(scope: Scope | HTTPConnection) -> Principal:
    """Return who sends a request. Raises KeyError if nobody has decided that: never answer it."""
    return cast(Principal, scope[PRINCIPAL])


class Authenticator:
    """Knows who may send requests.

    With ``token``, its owner may do everything, also while Redis is away. The owners of ``tokens``
    may do what those say. Without ``token``, and as long as there were no ``tokens``, everybody is
    let in who reaches this server; nobody, until Redis has said so once. Once there was one, it
    stays locked for as long as it runs: the end of the last token opens nothing.
    """

    def __init__(self, token: str | None = None, tokens: ApiTokens | None = None) -> None:
        self._token = None if token is None else token.encode()
        self._tokens = tokens
        self._locked = token is not None
        self._answered = False
        self._unknown: ServiceUnavailable | UsageError | None = None
        """Why nobody knows yet whether there are tokens."""
        self._look_at = -math.inf
        self._looking = asyncio.Lock()

    @property
    def has_tokens(self) -> bool:
        """Whether anybody may ever need a token."""
        return self._token is not None or self._tokens is not None

    async def is_locked(self) -> bool:
        """Return whether requests need a token.

        Raises ServiceUnavailable or UsageError if Redis has not said yet whether there are any.
        """
        if self._locked or self._tokens is None:
            return self._locked
        async with self._looking:
            if not self._locked and time.monotonic() >= self._look_at:
                pause = LOOK_SECONDS
                try:
                    self._locked = await _soon(self._tokens.exist(), LONGEST_LOOK_SECONDS)
                    self._answered, self._unknown = True, None
                except (ServiceUnavailable, UsageError) as error:
                    note_failure(error)
                    if not self._answered:  # else there are none, and none can be made now
                        self._unknown = error
                    pause = LOOK_AGAIN_SECONDS
                self._look_at = time.monotonic() + pause
            if self._unknown is not None:
                raise self._unknown.with_traceback(None)
        return self._locked

    async def admit(self, sent: bytes) -> Admission | None:
        """Return whose token ``sent`` is, and count a request; None if it is not valid.

        Raises BrokerUnavailable if it may be one of the ``tokens`` and nobody can tell now.
        """
        if self._token is not None and hmac.compare_digest(sent, self._token):
            return Admission(UNLIMITED)
        return None if self._tokens is None else await _soon(self._tokens.admit(sent))

    async def check(self, principal: Principal) -> None:
        """Raise HTTPException 401 if the token of ``principal`` was revoked meanwhile, or expired.

        Called before documents are queued that took long to arrive. Raises BrokerUnavailable.
        """
        if principal.token_id is None or self._tokens is None:
            return
        if not await _soon(self._tokens.is_valid(principal.token_id)):
            raise HTTPException(
                401, "the token was revoked, or has expired", {"WWW-Authenticate": "Bearer"}
            )


async def _soon(answer: Awaitable[T], seconds: float = PROBE_SECONDS) -> T:
    """Return the answer of Redis. Raises BrokerUnavailable if there is none within ``seconds``."""
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError as error:
        raise BrokerUnavailable(f"Redis does not answer within {seconds:g} s") from error


def rate_headers(rate: RequestRate | None) -> dict[str, str]:
    """Return the headers that say what is left of the limit of a token.

    https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers defines them.
    """
    if rate is None:
        return {}
    left = f'"minute";r={rate.left};t={math.ceil(rate.full_seconds)}'
    return {"RateLimit-Policy": f'"minute";q={rate.limit};w=60', "RateLimit": left}


def limit_message(rate: RequestRate) -> str:
    """Return the words for a request that was one too many."""
    return (
        f"this token may send {rate.limit} requests a minute; wait "
        f"{max(1, math.ceil(rate.wait_seconds))} s"
    )


def refused_for_now(admission: Admission) -> bool:
    """Return whether the request was one too many."""
    return admission.rate is not None and admission.rate.wait_seconds > 0
