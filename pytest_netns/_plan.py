"""A network as frozen data: names, addresses, MACs and indexes, worked out and checked before the kernel is touched."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ._errors import PlanError

__all__ = [
    "Cable",
    "End",
    "PairShape",
    "Plan",
    "check_host_name",
    "check_interface_name",
    "plan_host",
    "plan_pair",
]

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_BRIDGE_INDEX = 1000
#: Both ends of a pair get unusual, distinct indexes: equal ones make Linux treat a link event as not urgent, and the
#: first packet then waits for a second (linkwatch_urgent_event, net/core/link_watch.c).
_FIRST_INDEX = 1001

_EXAMPLES = {4: "10.0.0.0/24", 6: "fd00:10::/64"}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class End:
    """One end of a veth pair: where it is, and what it has."""

    place: str
    name: str
    index: int
    mac: str
    addresses: tuple[str, ...] = ()
    master: int | None = None


@dataclass(frozen=True)
class Cable:
    """A veth pair; the near end is the one in the bridge, if there is one."""

    near: End
    far: End
    mtu: int

    @property
    def ends(self) -> tuple[End, End]:
        return self.near, self.far


@dataclass(frozen=True)
class Plan:
    """What is to be made: hosts and bridges by name, each in a namespace of its own, and the cables between them."""

    hosts: tuple[str, ...]
    bridges: tuple[str, ...] = ()
    cables: tuple[Cable, ...] = ()
    bridge_index: int = _BRIDGE_INDEX


@dataclass(frozen=True)
class PairShape:
    """The keywords that shape ``netns_pair``, checked.

    Attributes:
        hosts: Names of the two hosts.
        bridge: Name of the bridge; False for a veth pair straight between the hosts.
        interfaces: Name of the hosts' interface, or one for each host; at most 15 bytes (IFNAMSIZ, netdevice(7)).
        subnet: IPv4 network of the two; None for no IPv4.
        subnet6: IPv6 network of the two; None for no IPv6. The default is a unique local prefix (RFC 4193).
        mtu: In bytes, 68 (RFC 791) to 65535; at least 1280 with IPv6 (RFC 8200).
    """

    hosts: tuple[str, str] = ("beijing", "shanghai")
    bridge: str | bool = "br0"
    interfaces: str | tuple[str, str] = "eth0"
    subnet: str | None = "10.0.0.0/24"
    subnet6: str | None = "fd00:10::/64"
    mtu: int = 1500

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> PairShape:
        """Check keywords as a user wrote them.

        Raises:
            PlanError: Names the keyword, the value and what was expected.
        """
        known = [field.name for field in fields(cls)]
        for keyword in keywords:
            if keyword not in known:
                raise PlanError(f"unknown keyword {keyword!r}; netns_pair takes {', '.join(known)}")
        shape = replace(cls(), **{word: _tupled(value) for word, value in keywords.items()})
        _check_names(shape)
        _check_mtu(shape)
        if shape.subnet is None and shape.subnet6 is None:
            raise PlanError("subnet and subnet6 are both None; a pair needs one of them")
        _network("subnet", shape.subnet, 4)
        _network("subnet6", shape.subnet6, 6)
        return shape


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def check_host_name(value: object, word: str = "host name") -> None:
    """Refuse what cannot be a host's name (RFC 1123 labels, and no path)."""
    if not isinstance(value, str) or not _LABEL.fullmatch(value):
        raise PlanError(
            f"{word} {value!r}: expected letters, digits, '-', '_' and '.', at most 63, "
            "beginning and ending with a letter or digit"
        )


def check_interface_name(value: object, word: str = "interface name") -> None:
    """Refuse what Linux refuses as the name of an interface (dev_valid_name, net/core/dev.c)."""
    if not isinstance(value, str) or not value:
        raise PlanError(f"{word} {value!r}: expected a string of 1 to 15 bytes")
    size = len(value.encode("utf-8", "surrogatepass"))
    if size > 15:
        raise PlanError(f"{word} {value!r} is {size} bytes long; Linux takes 15 at most (IFNAMSIZ)")
    if value in (".", "..", "lo", "all", "default") or not re.fullmatch(r"[!-~]+", value) or set("/:%") & set(value):
        raise PlanError(
            f"{word} {value!r}: expected printable ASCII without space, '/', ':' or '%', and not a reserved word"
        )


def _check_names(shape: PairShape) -> None:
    if not isinstance(shape.hosts, tuple) or len(shape.hosts) != 2:
        raise PlanError(f"hosts {shape.hosts!r}: expected two names, such as ('beijing', 'shanghai')")
    for name in shape.hosts:
        check_host_name(name, "hosts:")
    if shape.hosts[0] == shape.hosts[1]:
        raise PlanError(f"hosts {shape.hosts!r}: both have the same name")
    if shape.bridge is True or not (shape.bridge is False or isinstance(shape.bridge, str)):
        raise PlanError(f"bridge {shape.bridge!r}: expected a name, or False for none")
    if isinstance(shape.bridge, str):
        check_interface_name(shape.bridge, "bridge")
        check_host_name(shape.bridge, "bridge")
        if shape.bridge in shape.hosts:
            raise PlanError(f"bridge {shape.bridge!r} has the name of a host")
    names = shape.interfaces
    if not isinstance(names, str) and not (isinstance(names, tuple) and len(names) == 2):
        raise PlanError(f"interfaces {names!r}: expected a name, or a pair of names, one for each host")
    for name in (names,) if isinstance(names, str) else names:
        check_interface_name(name, "interfaces:")


def _check_mtu(shape: PairShape) -> None:
    if not isinstance(shape.mtu, int) or isinstance(shape.mtu, bool) or not 68 <= shape.mtu <= 65535:
        raise PlanError(f"mtu {shape.mtu!r}: expected a whole number of bytes from 68 to 65535")
    if shape.mtu < 1280 and shape.subnet6 is not None:
        raise PlanError(f"mtu {shape.mtu}: IPv6 needs 1280 at least (RFC 8200); for less, give subnet6=None")


def _network(word: str, value: object, version: int) -> Network | None:
    if value is None:
        return None
    if not isinstance(value, str) or "/" not in value:
        raise PlanError(f"{word} {value!r}: expected a network with its prefix length, such as {_EXAMPLES[version]!r}")
    return _parse_network(word, value, version)


@functools.lru_cache(1024)  # the same few come again with every test
def _parse_network(word: str, value: str, version: int) -> Network:
    example = _EXAMPLES[version]
    try:
        interface = ipaddress.ip_interface(value)
    except ValueError as error:
        raise PlanError(f"{word} {value!r}: {error}; expected a network such as {example!r}") from None
    network = interface.network
    if network.version != version:
        raise PlanError(f"{word} {value!r} is IPv{network.version}; expected IPv{version}, such as {example!r}")
    if interface.ip != network.network_address:
        raise PlanError(f"{word} {value!r} has host bits set; the network is {str(network)!r}")
    if network.num_addresses < (2 if version == 4 else 4):
        raise PlanError(f"{word} {value!r} has no room for two hosts")
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


def plan_host(name: str) -> Plan:
    """A single host with nothing but its loopback interface."""
    check_host_name(name)
    return Plan(hosts=(name,))


@functools.lru_cache(256)
def plan_pair(shape: PairShape) -> Plan:
    """Two hosts, joined by a bridge or directly; addresses are the first two of each network."""
    addresses = _addresses(shape)
    names = (shape.interfaces, shape.interfaces) if isinstance(shape.interfaces, str) else shape.interfaces
    ends = [
        End(host, name, _FIRST_INDEX + 2 * number, f"02:00:00:00:{number + 1:02x}:00", addresses[number])
        for number, (host, name) in enumerate(zip(shape.hosts, names, strict=True))
    ]
    if not isinstance(shape.bridge, str):
        return Plan(hosts=shape.hosts, cables=(Cable(ends[0], ends[1], shape.mtu),))
    ports = _port_names(shape.hosts, shape.bridge)
    cables = tuple(
        Cable(End(shape.bridge, port, end.index + 1, "fe" + end.mac[2:], (), _BRIDGE_INDEX), end, shape.mtu)
        for port, end in zip(ports, ends, strict=True)
    )
    return Plan(hosts=shape.hosts, bridges=(shape.bridge,), cables=cables)


def _addresses(shape: PairShape) -> list[tuple[str, ...]]:
    both: list[tuple[str, ...]] = [(), ()]
    for network in (_network("subnet", shape.subnet, 4), _network("subnet6", shape.subnet6, 6)):
        if network is not None:
            first = int(network.network_address) + (0 if network.prefixlen == 31 and network.version == 4 else 1)
            for number in (0, 1):
                # A plain sum: hosts() of an IPv6 network walks a list of 2**64.
                address = type(network.network_address)(first + number)
                both[number] += (f"{address}/{network.prefixlen}",)
    return both


def _port_names(hosts: tuple[str, str], bridge: str) -> tuple[str, str]:
    first, second = (f"veth-{host}" for host in hosts)
    if max(len(first), len(second)) > 15 or bridge in (first, second):
        return "veth-1", "veth-2"
    return first, second
