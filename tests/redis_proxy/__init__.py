"""A proxy in front of Redis that loses, or delays, exactly the request that a test names.

    async with redis_proxy(redis_url) as proxy:
        dropped = proxy.drop_after(script(scripts.ack.sha))
        ...  # a client at proxy.url finishes a job, and never learns that it did
        assert dropped.fired == 1

Guaranteed, for each connection of a client:

- Requests that no fault strikes, and their replies, pass through unchanged and in order. When one
  side closes its connection, the proxy closes the other.
- `RedisProxy.drop_before`: the server never sees the request, nor anything sent after it on its
  connection. Requests sent before it have been executed.
- `RedisProxy.drop_after`: the server has replied to the request, the client never sees the reply,
  and the server sees nothing that was sent after it on its connection. Within MULTI a reply only
  says that the request was queued: what executes it is EXEC.
- `RedisProxy.hold_request`: the server sees the request, and what follows it on its connection,
  when the test releases it, even if the client has gone away meanwhile: a late request.
- `RedisProxy.hold_reply`: the server has replied; the client sees this reply, and those after it,
  when the test releases it.

A drop closes both connections, by RST where they are TCP: the client's always is. Of replies sent
shortly before a drop the client may see none, as on a real network.

A fault that is armed counts the requests that match it from then on, on all connections, in the
order in which they reach the proxy. It strikes the ``nth`` of them, and a drop strikes ``times``
of them in a row: as many as a client tries, if it must not get through.

The proxy never guesses which reply belongs to which request. Subscriptions, MONITOR, replication,
CLIENT REPLY and inline commands make it raise ProtocolError on leaving. A script that is not loaded
makes it raise ScriptNotLoaded if a fault counts or strikes the request: the request did nothing,
and redis-py sends it again. See `loaded_scripts`.
"""

from tests.redis_proxy.commands import Predicate, command, loaded_scripts, script
from tests.redis_proxy.connection import ScriptNotLoaded
from tests.redis_proxy.faults import Disconnect, Hold
from tests.redis_proxy.proxy import RedisProxy, redis_proxy
from tests.redis_proxy.resp import ProtocolError

__all__ = [
    "Disconnect",
    "Hold",
    "Predicate",
    "ProtocolError",
    "RedisProxy",
    "ScriptNotLoaded",
    "command",
    "loaded_scripts",
    "redis_proxy",
    "script",
]
