"""The Lua scripts of ``broker/lua``, registered with a client."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Self

from arq.connections import ArqRedis
from redis.commands.core import AsyncScript


@dataclass(frozen=True)
class Scripts:
    """One field a script; each runs as one step in Redis."""

    enqueue: AsyncScript
    claim: AsyncScript
    renew: AsyncScript
    put_back: AsyncScript
    finish: AsyncScript
    requeue: AsyncScript
    purge: AsyncScript
    heartbeat: AsyncScript
    depth: AsyncScript

    @classmethod
    def register(cls, redis: ArqRedis) -> Self:
        """Read the scripts; they are sent to the server when first used."""
        folder = files("broker") / "lua"
        return cls(
            **{
                name: redis.register_script((folder / f"{name}.lua").read_text())
                for name in cls.__dataclass_fields__
            }
        )
