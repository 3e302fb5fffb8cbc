"""The Lua scripts of ``ingestq/broker/lua``, registered with a client.

They compute the names of the keys they use, so they need one Redis server, not a Redis Cluster.
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
    """One field for each script. A script runs atomically in Redis."""

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
        """Read the scripts. Each is sent to the server when it is first used."""
        folder = files("ingestq.broker") / "lua"
        shared = (folder / "shared.lua").read_text(encoding="utf-8")
        scripts = {
            name: shared + (folder / f"{name}.lua").read_text(encoding="utf-8")
            for name in cls.__dataclass_fields__.keys() - {"redis"}
        }
        return cls(
            redis=redis,
            **{
                name: redis.register_script(_with_key_names(script))
                for name, script in scripts.items()
            },
        )

    async def run_all(self, script: AsyncScript, calls: Sequence[Sequence[Argument]]) -> list[Any]:
        """Run ``script`` once for each list of arguments, all in one round trip.

        (redis-py's own pipeline would first ask for each script whether the server knows it.)
        """
        async with self.redis.pipeline(transaction=False) as pipe:
            for arguments in calls:
                pipe.evalsha(script.sha, 0, *cast(Sequence[str], arguments))
            try:
                return await pipe.execute()
            except NoScriptError:  # the server was restarted; none of them ran
                await self.redis.script_load(script.script)
        return await self.run_all(script, calls)


def _with_key_names(script: str) -> str:
    """Return ``script`` with the name of the key in place of each ``K.NAME``.

    The names become constants, because a Lua table of them would be built again at every call.
    """
    return re.sub(r"\bK\.([A-Z_]+)\b", lambda match: repr(getattr(keys, match[1])), script)
