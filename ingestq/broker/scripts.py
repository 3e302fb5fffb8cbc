"""The Lua scripts of ``ingestq/broker/lua``, registered with a client.

They build the names of the keys they touch, so they need one Redis server, not a Redis Cluster.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Self, cast

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError

from ingestq.broker import keys

Argument = str | int | bytes


@dataclass(frozen=True)
class Scripts:
    """One field a script; each runs as one step in Redis."""

    redis: Redis
    enqueue: AsyncScript
    enqueue_once: AsyncScript
    claim: AsyncScript
    renew: AsyncScript
    ack: AsyncScript
    nack: AsyncScript
    mark_alone: AsyncScript
    requeue: AsyncScript
    purge: AsyncScript
    begin_run: AsyncScript
    renew_run: AsyncScript
    end_run: AsyncScript
    publish_entries: AsyncScript
    list_runs: AsyncScript
    heartbeat: AsyncScript
    overview: AsyncScript
    count: AsyncScript
    recent: AsyncScript

    @classmethod
    def register(cls, redis: Redis) -> Self:
        """Read the scripts; they are sent to the server when first used."""
        folder = files("ingestq.broker") / "lua"
        shared = (folder / "shared.lua").read_text()
        return cls(
            redis=redis,
            **{
                name: redis.register_script(_named(shared + (folder / f"{name}.lua").read_text()))
                for name in cls.__dataclass_fields__.keys() - {"redis"}
            },
        )

    async def run_all(self, script: AsyncScript, calls: Sequence[Sequence[Argument]]) -> list[Any]:
        """Run ``script`` once for each list of arguments, all in one round trip.

        redis-py's pipeline would ask before each whether the server knows the script.
        """
        async with self.redis.pipeline(transaction=False) as pipe:
            for arguments in calls:
                pipe.evalsha(script.sha, 0, *cast(Sequence[str], arguments))
            try:
                return await pipe.execute()
            except NoScriptError:  # the server was restarted: none of them ran
                await self.redis.script_load(script.script)
        return await self.run_all(script, calls)


def _named(script: str) -> str:
    """``script`` with the names of the keys in place of ``K.NAME``.

    As constants, because a table of them would be built anew at every call.
    """
    return re.sub(r"\bK\.([A-Z_]+)\b", lambda match: repr(getattr(keys, match[1])), script)
