"""Only public addresses are connected to."""

import pytest

from ingestq.outbound.addresses import AddressRefused, is_public, resolved


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a00:1",
        "64:ff9b:1::a00:1",
        "2002:a00:1::",
        "2001:0:4136:e378:8000:63bf:f5ff:fffe",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%lo",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
    ],
)
def test_addresses_of_networks_and_machines_are_not(address: str) -> None:
    assert not is_public(address)


def test_an_address_that_stands_for_a_public_one_is_public() -> None:
    assert is_public("::ffff:8.8.8.8")
    assert is_public("64:ff9b::808:808")


async def test_a_host_with_private_addresses_is_refused_unless_they_are_allowed() -> None:
    with pytest.raises(AddressRefused, match=r"^localhost \(\S+\) is not a public address$"):
        await resolved("localhost", 80)
    assert "127.0.0.1" in await resolved("localhost", 80, allow_private=True)
