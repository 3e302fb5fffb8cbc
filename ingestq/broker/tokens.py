"""API tokens in Redis: made and revoked by a command, looked up by the API with each request."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, awaited, translate_errors
from ingestq.broker.scripts import Scripts, new_call
from ingestq.core.tokens import Principal, TokenGrant, TokenInfo, digest_of, new_token, token_id_of

MS_PER_DAY: Final = 24 * 3600 * 1000
SECONDS_PER_MS: Final = 1 / 1000


@dataclass(frozen=True)
class RequestRate:
    """How many requests of ``limit`` a minute a token has left, and when it has all again.

    ``wait_seconds`` is more than 0 if this request was one too many.
    """

    limit: int
    left: int
    full_seconds: float
    wait_seconds: float


@dataclass(frozen=True)
class Admission:
    """The owner of a valid token, and its ``rate`` if that is limited."""

    principal: Principal
    rate: RequestRate | None = None


class ApiTokens:
    """Makes, lists, revokes and looks up tokens.

    Every method raises BrokerUnavailable while Redis is away.
    """

    def __init__(self, redis: Redis, config: BrokerConfig) -> None:
        self._redis = redis
        self._config = config
        self._scripts = Scripts.register(redis)

    async def create(self, grant: TokenGrant) -> tuple[TokenInfo, str] | None:
        """Store a new token, and return it; None if there is one with its name.

        The token itself, the second part, is stored nowhere: it can be read here only.
        """
        token_id, token = new_token()
        valid_ms = "" if grant.expires_days is None else int(grant.expires_days * MS_PER_DAY)
        fields: dict[str, str] = {
            "digest": digest_of(token.encode()),
            "rights": " ".join(sorted(grant.rights)),
            "collections": " ".join(sorted(grant.collections or ())),
            "per_minute": "" if grant.per_minute is None else str(grant.per_minute),
        }
        if grant.tenant is not None:
            fields["tenant"] = grant.tenant
        pairs = [part for pair in fields.items() for part in pair]
        with self._translated():
            answer = await self._scripts.create_token(args=[grant.name, token_id, valid_ms, *pairs])
        return None if answer is None else (_token(token_id, answer[1], answer[0]), token)

    async def listed(self) -> list[TokenInfo]:
        """Return all tokens, also those that have expired, by name."""
        with self._translated():
            now_ms, tokens = await self._scripts.list_tokens()
        found = [_token(token_id.decode(), raw, now_ms) for token_id, raw in tokens]
        return sorted(found, key=lambda token: token.name)

    async def revoke(self, name: str) -> int | None:
        """Delete a token, and end its sessions; return how many tokens are left.

        None if there is no token with this name. Requests that begin after that are refused.
        """
        with self._translated():
            answer: int | None = await self._scripts.revoke_token(args=[name, new_call()])
        return answer

    async def exist(self) -> bool:
        """Return whether there is any token, be it expired."""
        with self._translated():
            return bool(await awaited(self._redis.exists(keys.TOKENS)))

    async def admit(self, token: bytes) -> Admission | None:
        """Return whose ``token`` it is, and count a request; None if it is not valid."""
        token_id = token_id_of(token)
        if token_id is None:
            return None
        return await self._admit("token", token_id, digest_of(token), count=1)

    async def admit_session(self, session: str, *, count: int) -> Admission | None:
        """Return whose ``session`` it is, and count so many requests; None if it is over."""
        return await self._admit("session", digest_of(session.encode()), "", count=count)

    async def is_valid(self, token_id: str) -> bool:
        """Return whether the token with this id is still valid; counts no request."""
        return await self._admit("id", token_id, "", count=0) is not None

    async def _admit(self, sent: str, named: str, digest: str, *, count: int) -> Admission | None:
        with self._translated():
            answer: Any = await self._scripts.admit_token(args=[sent, named, digest, count])
        if answer is None:
            return None
        token_id, raw, now_ms, left, full_ms, wait_ms = answer
        token = _token(token_id.decode(), raw, now_ms)
        if token.per_minute is None:
            return Admission(token.principal)
        rate = RequestRate(
            token.per_minute, left, full_ms * SECONDS_PER_MS, wait_ms * SECONDS_PER_MS
        )
        return Admission(token.principal, rate)

    async def begin_session(self, token_id: str, session: str, seconds: int) -> None:
        """Let ``session`` stand for the token with this id, for so long or until it is revoked."""
        key = keys.TOKEN_SESSION + digest_of(session.encode())
        with self._translated():
            await awaited(self._redis.set(key, token_id, ex=seconds))

    async def end_session(self, session: str) -> None:
        """End ``session`` before its time."""
        with self._translated():
            await awaited(self._redis.delete(keys.TOKEN_SESSION + digest_of(session.encode())))

    def _translated(self) -> AbstractContextManager[None]:
        return translate_errors(self._config)


def _token(token_id: str, raw: Sequence[bytes], now_ms: int) -> TokenInfo:
    return TokenInfo.of(token_id, dict(zip(raw[::2], raw[1::2], strict=True)), now_ms)
