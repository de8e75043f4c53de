"""Networks and addresses as users write them: read, checked, and given out; no I/O."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable

from ._errors import PlanError, hide_own_frames

__all__ = ["Network", "address_in", "automatic_subnet", "check_mac", "free_address", "host_bounds", "parse_subnet"]

__tracebackhide__ = hide_own_frames

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_EXAMPLES = {4: "10.0.0.0/24", 6: "fd00:10::/64"}
_KEYWORDS = {4: "subnet", 6: "subnet6"}


def parse_subnet(word: str, value: object, version: int, of: str = "") -> Network:
    """Read a network that hosts are to be in; ``of`` is a bridge or link, in words.

    Raises:
        PlanError: Names ``word``, the value and what was expected.
    """
    if not isinstance(value, str) or "/" not in value:
        raise PlanError(f"{word} {value!r}: expected a network with its prefix length, such as {_EXAMPLES[version]!r}")
    return _parse(word, value, version, of)


@functools.lru_cache(4096)  # the same few come again with every test
def _parse(word: str, value: str, version: int, of: str) -> Network:
    example = _EXAMPLES[version]
    try:
        interface = ipaddress.ip_interface(value)
    except ValueError as error:
        raise PlanError(f"{word} {value!r}: {error}; expected a network such as {example!r}") from None
    network = interface.network
    if network.version != version:
        other = _KEYWORDS[network.version]
        raise PlanError(
            f"{word} {value!r} is IPv{network.version}; expected IPv{version}, such as {example!r} "
            f"(the keyword for IPv{network.version} is {other})"
        )
    if interface.ip != network.network_address:
        raise PlanError(f"{word} {value!r} has host bits set; the network is {str(network)!r}")
    if network.num_addresses < 2:
        smallest = "a /31 (RFC 3021)" if version == 4 else "a /127 (RFC 6164)"
        raise PlanError(f"{word} {value!r}{of and f' of {of}'} has no room for two hosts; the smallest is {smallest}")
    _check_unicast(word, value, network)
    return network


_TAKEN = {
    ipaddress.ip_network("127.0.0.0/8"): "the loopback interface",
    ipaddress.ip_network("0.0.0.0/8"): "'this network' (RFC 1122)",
    ipaddress.ip_network("224.0.0.0/3"): "multicast and reserved addresses",
    ipaddress.ip_network("::/127"): "the loopback and unspecified addresses",
    ipaddress.ip_network("fe80::/10"): "link-local addresses, which every interface has by itself",
    ipaddress.ip_network("ff00::/8"): "multicast",
}


def _check_unicast(word: str, value: str, network: Network) -> None:
    for other, owner in _TAKEN.items():
        if other.version == network.version and network.overlaps(other):
            raise PlanError(f"{word} {value!r} overlaps {other}, which belongs to {owner}")


def automatic_subnet(number: int, version: int) -> str:
    """The ``number``-th network, from 0, of those given to segments that name none: private ones (RFC 1918, 4193).

    Raises:
        PlanError: There are no more.
    """
    if number > 0xFFFF:
        raise PlanError("no more automatic subnets: 65,536 are in use; give the others subnets of their own")
    if version == 4:
        return f"10.{number >> 8}.{number & 0xFF}.0/24"
    return "fd00:10::/64" if number == 0 else f"fd00:10:0:{number:x}::/64"


def host_bounds(network: Network) -> tuple[int, int]:
    """First and last address that a host may have, as numbers."""
    first = int(network.network_address)
    last = first + network.num_addresses - 1
    if network.num_addresses == 2:
        return first, last  # both are for hosts (RFC 3021, RFC 6164)
    if network.version == 4:
        return first + 1, last - 1  # the first is the network's, the last the broadcast's
    return first + 1, last  # the first is the routers' anycast address (RFC 4291, 2.6.1)


def free_address(network: Network, start: int, taken: Callable[[str], bool]) -> tuple[str, int] | None:
    """The first address that is free, and its number, looked for from number ``start`` (0 is the first); None if none.

    A plain sum: ``hosts()`` of an IPv6 network walks a list of 2**64.
    """
    first, last = host_bounds(network)
    kind = type(network.network_address)
    for number in range(start, last - first + 1):
        address = str(kind(first + number))
        if not taken(address):
            return address, number
    return None


def address_in(network: Network, word: str, value: object) -> str:
    """Read an address that a host is to have in a network.

    Raises:
        PlanError: Names ``word``, the value and what was expected.
    """
    try:
        if not isinstance(value, str) or "%" in value:
            raise ValueError("not a string, or one with an interface's name")
        address = ipaddress.ip_address(value)
    except ValueError:
        without = "without prefix length and interface"
        raise PlanError(f"{word} {value!r}: expected an address of {network}, {without}") from None
    first, last = host_bounds(network)
    if address.version != network.version or not first <= int(address) <= last:
        kind = type(network.network_address)
        raise PlanError(f"{word} {value!r}: expected an address of {network}: {kind(first)} to {kind(last)}")
    return str(address)


def check_mac(word: str, value: object) -> str:
    """Read a hardware address for one interface, in lower case (IEEE 802).

    Raises:
        PlanError: It is malformed, zero or a group address.
    """
    parts = value.lower().split(":") if isinstance(value, str) else []
    octets = [int(part, 16) for part in parts if len(part) == 2 and set(part) <= set("0123456789abcdef")]
    if len(parts) != 6 or len(octets) != 6 or octets[0] & 1 or not any(octets):
        raise PlanError(f"{word} {value!r}: expected six octets such as '00:00:5e:00:53:01', and no group address")
    return ":".join(parts)
