"""Which addresses are asked for keys."""

from __future__ import annotations

from typing import Final

import pytest

from citadel.errors import Reason, Unavailable
from citadel.web.addresses import check_address

PUBLIC: Final = ("8.8.8.8", "1.1.1.1", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1")
PRIVATE: Final = (
    *("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"),
    *("::1", "fc00::1", "fd12::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::1"),
)
NEVER: Final = (
    *("169.254.169.254", "169.254.170.2", "169.254.0.1", "0.0.0.0", "0.1.2.3"),  # noqa: S104 - an address to be refused
    *("fe80::1", "fe80::1%eth0", "fec0::1", "::", "ff02::1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    *("fd00:42::42", "192.88.99.1", "2002:c058:6301::1", "3fff::1"),
    *("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "64:ff9b:1::1", "::127.0.0.1", "::2"),
    *("192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "100::1", "2001::1"),
)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_asked(address: str) -> None:
    for allowed in (True, False):
        check_address("issuer.test", address, allow_private=allowed)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_asked_where_a_rule_allows_it(address: str) -> None:
    check_address("issuer.test", address, allow_private=True)
    with pytest.raises(Unavailable, match="allowPrivateAddresses is not set") as refusal:
        check_address("issuer.test", address, allow_private=False)
    assert refusal.value.reason is Reason.ADDRESS_REFUSED


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_never_asked(address: str) -> None:
    for allowed in (True, False):
        with pytest.raises(Unavailable, match=r"issuer\.test is at") as refusal:
            check_address("issuer.test", address, allow_private=allowed)
        assert refusal.value.reason is Reason.ADDRESS_REFUSED
