"""Tells public addresses from those that only exist inside a network, or on this machine."""

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from ingestq.core.errors import IngestqError

GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
"""All public IPv6 addresses (RFC 4291, and the registry of IANA)."""
NAT64: Final = IPv6Network("64:ff9b::/96")
"""Addresses that stand for the IPv4 address in their last four bytes (RFC 6052)."""


class AddressRefused(IngestqError):
    """A host has no address that may be connected to.

    The message names the host and one of its addresses.
    """


def is_public(address: str) -> bool:
    """Return whether ``address`` is one of the public Internet, for everybody the same.

    Loopback, private, link-local (also that of cloud metadata services), shared, reserved and
    multicast addresses are not, nor are IPv6 addresses that stand for such IPv4 addresses. Raises
    ValueError if ``address`` is not an IP address.
    """
    parsed = ip_address(address)
    inner = _inner(parsed)
    if inner is not None:
        return is_public(str(inner))
    if isinstance(parsed, IPv6Address) and parsed not in GLOBAL_UNICAST:
        return False
    return parsed.is_global and not parsed.is_multicast


def _inner(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that ``address`` leads to: mapped, 6to4, Teredo or NAT64."""
    if isinstance(address, IPv4Address):
        return None
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


async def resolved(host: str, port: int, *, allow_private: bool = False) -> list[str]:
    """Return the addresses of ``host`` that may be connected to, the preferred one first.

    Connect to one of these, and do not resolve the name again: it may have another address by then.
    Raises AddressRefused if it has none that are public, and OSError if it has none.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    allowed = [each for each in addresses if allow_private or is_public(each)]
    if not allowed:
        shown = host if host == addresses[0] else f"{host} ({addresses[0]})"
        raise AddressRefused(f"{shown} is not a public address")
    return allowed
