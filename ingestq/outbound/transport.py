"""A transport for httpx that connects only to public addresses.

A name is resolved once for each request, its addresses are checked, and the connection is made to
one that was checked. So a name whose address changes in between (DNS rebinding), or a redirect that
a client follows, leads nowhere else. TLS still verifies the name.
"""

import ssl
import time
from types import TracebackType
from typing import Final, Self

import httpx

from ingestq.outbound.addresses import resolved

PORTS: Final = {"http": 80, "https": 443}


class PublicTransport(httpx.AsyncBaseTransport):
    """Sends requests to hosts with public addresses, or to any with ``allow_private``.

    Requests raise AddressRefused, or what httpx raises. Connections are not kept: one that was made
    for a name must not serve another name with the same address.
    """

    def __init__(self, *, allow_private: bool = False) -> None:
        self._allow_private = allow_private
        self._transport = httpx.AsyncHTTPTransport(
            verify=ssl.create_default_context(),
            trust_env=False,  # a proxy would resolve the name itself
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request``, to the first of the host's addresses that accepts a connection.

        All attempts to connect share the time that the request allows for it, so that an address
        that does not answer leaves some to the next.
        """
        host = request.url.raw_host.decode("ascii")
        port = request.url.port or PORTS[request.url.scheme]
        try:
            addresses = await resolved(host, port, allow_private=self._allow_private)
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that is too long
            raise httpx.ConnectError(f"{host} has no address: {error}") from error
        seconds = request.extensions.get("timeout", {}).get("connect")
        ends = None if seconds is None else time.monotonic() + seconds
        for n, address in enumerate(addresses):
            untried = len(addresses) - n
            share = None if ends is None else max(0.0, ends - time.monotonic()) / untried
            try:
                return await self._send(request, host, address, share)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if untried == 1:
                    raise
        raise AssertionError("a host that was resolved has an address")

    async def _send(
        self, request: httpx.Request, host: str, address: str, connect_seconds: float | None
    ) -> httpx.Response:
        timeout = request.extensions.get("timeout", {}) | {"connect": connect_seconds}
        sent = httpx.Request(
            request.method,
            request.url.copy_with(host=address),
            headers=request.headers,  # with the name as Host
            stream=request.stream,
            extensions=request.extensions | {"sni_hostname": host, "timeout": timeout},
        )
        return await self._transport.handle_async_request(sent)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)
