"""The Lua scripts of ``ingestq/broker/lua``, registered with a client.

They compute the names of the keys they use, so they need one Redis server, not a Redis Cluster.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final, Self, cast
from uuid import uuid4

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError

from ingestq.broker import keys
from ingestq.core import versions
from ingestq.core.errors import BrokerUnavailable

Argument = str | int | bytes

FAILED_AT: Final = re.compile(r"script: (?P<sha>[0-9a-f]{40}), on @user_script:(?P<line>\d+)")
"""The place of an error in an answer of Redis."""
CALL: Final = re.compile(r"redis\.p?call\(\s*'(?P<name>\w+)'")
REPLICAS_MS: Final = 5_000
"""How long to wait for replicas; less than the timeout of a reply."""


@dataclass(frozen=True)
class Scripts:
    """One field for each script. A script runs atomically in Redis."""

    redis: Redis
    issue_versions: AsyncScript
    compare_ledger: AsyncScript
    name_blob: AsyncScript
    enqueue: AsyncScript
    enqueue_once: AsyncScript
    claim: AsyncScript
    renew: AsyncScript
    ack: AsyncScript
    nack: AsyncScript
    mark_alone: AsyncScript
    requeue: AsyncScript
    expired_dead_letters: AsyncScript
    purge: AsyncScript
    begin_run: AsyncScript
    renew_run: AsyncScript
    end_run: AsyncScript
    publish_entries: AsyncScript
    list_runs: AsyncScript
    heartbeat: AsyncScript
    report_folder: AsyncScript
    overview: AsyncScript
    count: AsyncScript
    recent: AsyncScript
    claim_webhooks: AsyncScript
    end_webhook: AsyncScript
    retry_webhooks: AsyncScript
    purge_webhooks: AsyncScript
    list_webhooks: AsyncScript
    admit_token: AsyncScript
    create_token: AsyncScript
    list_tokens: AsyncScript
    revoke_token: AsyncScript

    @classmethod
    def register(cls, redis: Redis) -> Self:
        """Read the scripts. Each is sent to the server when it is first used."""
        registered = {name: redis.register_script(text) for name, text in _texts().items()}
        return cls(redis=redis, **registered)

    async def run_all(
        self, script: AsyncScript, calls: Sequence[Sequence[Argument]], *, replicas: int = 0
    ) -> list[Any]:
        """Run ``script`` once for each list of arguments, all in one round trip.

        Returns when ``replicas`` replicas have everything that is written so far. Raises
        BrokerUnavailable if that takes too long; the scripts have run nevertheless.

        (redis-py's own pipeline would first ask for each script whether the server knows it.)
        """
        async with self.redis.pipeline(transaction=False) as pipe:
            for arguments in calls:
                pipe.evalsha(script.sha, 0, *cast(Sequence[str], arguments))
            if replicas:
                # WAIT only waits for what its own connection has written, and scripts that find
                # their work done already, by another connection, write nothing.
                pipe.incr(keys.RECEIPTS)
                pipe.wait(replicas, REPLICAS_MS)
            try:
                answers: list[Any] = await pipe.execute()
            except NoScriptError:  # the server was restarted; none of them ran
                await self.redis.script_load(script.script)
            else:
                return _confirmed(answers, replicas) if replicas else answers
        return await self.run_all(script, calls, replicas=replicas)


def new_call() -> str:
    """Return the id of a call of a script that remembers its answer, in case it is sent again."""
    return uuid4().hex


def _confirmed(answers: list[Any], replicas: int) -> list[Any]:
    """Return the answers of the scripts. Raises BrokerUnavailable if too few replicas have them."""
    *own, _, reached = answers
    if reached < replicas:
        raise BrokerUnavailable(
            f"{reached} replicas of Redis confirm what was written, but INGESTQ_REDIS_REPLICAS "
            f"asks for {replicas}"
        )
    return own


@cache
def _texts() -> Mapping[str, str]:
    """Return the text of each script."""
    folder = files("ingestq.broker") / "lua"

    def text(name: str) -> str:
        return _with_constants((folder / f"{name}.lua").read_text(encoding="utf-8"))

    shared = text("shared")
    return {name: shared + text(name) for name in Scripts.__dataclass_fields__.keys() - {"redis"}}


def failed_command(said: str) -> str | None:
    """Return the command in a script that failed, if ``said``, an answer of Redis, tells its place.

    Redis 7.0 does not name a command that the user has no right to.
    """
    place = FAILED_AT.search(said)
    if place is None:
        return None
    for text in _texts().values():
        if sha1(text.encode(), usedforsecurity=False).hexdigest() == place["sha"]:
            rest = "\n".join(text.splitlines()[int(place["line"]) - 1 :])
            command = CALL.search(rest)
            return command and command["name"].lower()
    return None


def _with_constants(script: str) -> str:
    """Return ``script`` with the values of its constants: ``K.NAME`` (keys), ``V.NAME`` (versions).

    They are filled in, because a Lua table of them would be built again at every call.
    """
    modules = {"K": keys, "V": versions}
    return re.sub(
        r"\b([KV])\.([A-Z_]+)\b",
        lambda match: repr(getattr(modules[match[1]], match[2])),
        script,
    )
