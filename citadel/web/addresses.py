"""Which addresses are never asked: who writes a policy, or answers for an issuer, must not reach through us.

Source: the special-purpose registries of IANA (RFC 6890), and the addresses at which clouds hand out credentials.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

import httpcore

from citadel.errors import CitadelError, Reason, Unavailable

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_NEVER: Final = tuple(
    ip_network(each)
    for each in (
        *("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
        *("::/128", "fe80::/10", "fec0::/10", "ff00::/8"),
        "192.0.0.0/24",  # for protocols; Oracle's metadata is 192.0.0.192
        "192.88.99.0/24",  # relays to IPv6, which there are no more
        "3fff::/20",  # for documentation
        "100.100.100.200/32",  # Alibaba's metadata
        "168.63.129.16/32",  # Azure's host
        "fd00:ec2::/32",  # Amazon's metadata
        "fd20:ce::/32",  # Google's metadata
        "fd00:42::42/128",  # Scaleway's metadata
    )
)
_PRIVATE: Final = tuple(
    ip_network(each)
    for each in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_LOW_32_BITS: Final = 0xFFFF_FFFF


def check_address(host: str, address: str, *, allow_private: bool, in_plain_text: bool = False) -> None:
    """Raise `Unavailable` (`address_refused`) unless `address`, which `host` resolved to, may be connected to.

    That a network is one's own, for which plain text is good enough, can be so of private addresses alone.
    """
    found = _meant(ip_address(address))
    if any(found in network for network in _NEVER):
        raise _refused(f"{host} is at {address}, which is never asked")
    if any(found in network for network in _PRIVATE):
        if allow_private:
            return
        raise _refused(f"{host} is at {address}, which is private; allowPrivateAddresses is not set")
    if not found.is_global or (isinstance(found, IPv6Address) and found not in _GLOBAL_UNICAST):
        raise _refused(f"{host} is at {address}, which is no public address")
    if in_plain_text:
        raise _refused(f"{host} is at {address}, which is public: only https is good enough there")


async def judged_addresses(
    resolve: Resolve, host: str, port: int, *, allow_private: bool, in_plain_text: bool = False
) -> list[str]:
    """The addresses of `host`, in the order in which they are to be tried. Raises `httpcore.ConnectError` for none.

    A single one that may not be connected to is enough to be refused, as by `check_address`: which one is taken must
    not be a matter of luck.
    """
    try:
        addresses = list(dict.fromkeys(await resolve(host, port)))
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from error
    for address in addresses:
        check_address(host, address, allow_private=allow_private, in_plain_text=in_plain_text)
    if not addresses:
        raise httpcore.ConnectError(f"{host} has no address")
    return addresses


def _meant(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 one leads to, where it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & _LOW_32_BITS)
    return address.ipv4_mapped or address.sixtofour or address


def _refused(message: str) -> CitadelError:
    return Unavailable(Reason.ADDRESS_REFUSED, message)
