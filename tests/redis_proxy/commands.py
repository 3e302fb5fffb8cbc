"""Predicates that select requests."""

from collections.abc import Callable

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from ingestq.broker.scripts import Scripts

Words = tuple[bytes, ...]
"""A request: the command's name and its arguments."""
Predicate = Callable[[Words], bool]


def command(name: str, *arguments: str) -> Predicate:
    """Match requests for ``name``, in any case, whose first arguments are ``arguments``."""
    expected = tuple(argument.encode() for argument in arguments)

    def matches(words: Words) -> bool:
        return words[0].upper() == name.upper().encode() and words[1:][: len(expected)] == expected

    return matches


def script(sha: str) -> Predicate:
    """Match requests to run the Lua script with this SHA1, as redis-py sends them."""
    return command("EVALSHA", sha)


async def loaded_scripts(redis: Redis) -> Scripts:
    """Load the broker's scripts into the server and return them: their first EVALSHA works."""
    scripts = Scripts.register(redis)
    for value in vars(scripts).values():
        if isinstance(value, AsyncScript):
            await redis.script_load(value.script)
    return scripts
