"""A lab as frozen data: names, addresses, MACs and indexes, worked out and checked before the kernel is touched.

A plan grows by functions that return the next one: a segment, a node (host or router), an end of a node on a segment.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ._addresses import Network, address_in, automatic_subnet, check_mac, free_address, host_bounds, parse_subnet
from ._apart import check_apart, check_mac_free
from ._checks import check_host_name, check_interface_name, check_mtu, check_resolvable
from ._errors import PlanError, hide_own_frames
from ._port import PLAIN, Port

if TYPE_CHECKING:
    from ._nat import Nat, PortForward

__all__ = [
    "AUTO",
    "BRIDGE_INDEX",
    "NOTHING",
    "End",
    "Node",
    "Plan",
    "Segment",
    "Way",
    "add_end",
    "add_link",
    "add_node",
    "add_segment",
    "free_port_name",
    "next_free_address",
]

__tracebackhide__ = hide_own_frames

#: For a subnet that the plan is to choose.
AUTO = "auto"

BRIDGE_INDEX = 1000
#: net/bridge/br_private.h; number 0 is not given (find_portno, net/bridge/br_if.c).
_MOST_PORTS = 1023
#: Both ends of a pair get unusual, distinct indexes: equal ones make Linux treat a link event as not urgent, and the
#: first packet then waits for a second (linkwatch_urgent_event, net/core/link_watch.c).
_FIRST_INDEX = 1001


class Segment(NamedTuple):
    """What stands for an Ethernet segment: a bridge; or, between just two ends, a veth pair without one."""

    name: str
    bridged: bool
    subnet: Network | None
    subnet6: Network | None
    mtu: int
    #: Of a bridge: whether it runs the spanning tree protocol, and keeps VLANs apart.
    stp: bool = False
    vlan_filtering: bool = False

    def network(self, version: int) -> Network | None:
        """Its network of that IP version."""
        return self.subnet if version == 4 else self.subnet6


class Node(NamedTuple):
    """A host; a router if it forwards."""

    name: str
    #: In the order of creation, from 1.
    number: int
    forwards: bool = False
    #: Of a router: how it translates, and which ports of its outside address lead to hosts.
    nat: Nat | None = None
    port_forwards: tuple[PortForward, ...] = ()
    #: Whether it gets routes; a router of whoever tests what makes them gets none.
    routed: bool = True


@dataclass(frozen=True)
class End:
    """One interface of a node, on a segment."""

    node: str
    segment: str
    name: str
    index: int
    mac: str
    #: With prefix lengths.
    addresses: tuple[str, ...]
    #: The other end, in the bridge's namespace: its name, empty without a bridge, and hardware address.
    port: str = ""
    port_mac: str = ""
    told: Port = PLAIN
    #: In bytes; None for that of its segment.
    mtu: int | None = None

    @property
    def port_index(self) -> int:
        """Index of the other end, where that is a port."""
        return self.index + 1

    def address(self, version: int) -> str | None:
        """Its first address of that IP version, without prefix length."""
        return next((text.split("/")[0] for text in self.addresses if (":" in text) == (version == 6)), None)


class Way(NamedTuple):
    """Where a route leads that users have given: over an address on a segment, or over none; it may be a host's."""

    address: str | None
    segment: str
    host: str | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """What a lab consists of. Plans are told apart by identity: comparing large ones would take long."""

    segments: Mapping[str, Segment] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    ends: tuple[End, ...] = ()
    #: By segment: the ends on it. By node: its ends.
    on_segment: Mapping[str, tuple[End, ...]] = field(default_factory=dict)
    of_node: Mapping[str, tuple[End, ...]] = field(default_factory=dict)
    #: Who has an address of a segment; and where the search for the next free one starts, by IP version.
    owners: Mapping[tuple[str, str], str] = field(default_factory=dict)
    next_free: Mapping[tuple[str, int], int] = field(default_factory=dict)
    #: Networks that users have given: automatic ones keep clear of them, and of each other by counting.
    given: tuple[Network, ...] = ()
    #: Hardware addresses that users have given, without the first octet: automatic ones keep clear of them.
    given_tails: frozenset[str] = frozenset()
    #: Routes that users have given, by node, IP version and destination; None for no route.
    fixed: Mapping[tuple[str, int, str | None], Way | None] = field(default_factory=dict)
    #: How many automatic subnets, nodes and ends there have been.
    automatic: int = 0
    nodes_made: int = 0
    ends_made: int = 0
    #: What the kernel must have for it, by the names of :mod:`._features`.
    features: frozenset[str] = frozenset()

    @property
    def bridges(self) -> tuple[str, ...]:
        """Names of the bridges, each of which has a namespace."""
        return tuple(name for name, segment in self.segments.items() if segment.bridged)


#: What every plan grows from.
NOTHING = Plan()

# Growing


def add_segment(
    plan: Plan,
    name: str,
    subnet: object = AUTO,
    subnet6: object = AUTO,
    *,
    mtu: object = 1500,
    stp: object = False,
    vlan_filtering: object = False,
    bridged: bool = True,
    ipv6: bool = True,
) -> Plan:
    """The plan with a segment more.

    Args:
        subnet, subnet6: A network, None for none, or ``"auto"``: then it gets one that no other segment has.
        ipv6: Whether this kernel has IPv6; without, ``subnet6="auto"`` is none.

    Raises:
        PlanError: Names what is wrong with it.
    """
    if bridged:
        check_interface_name(name, "bridge")
        check_host_name(name, "bridge")
        if name in plan.nodes:
            raise PlanError(f"bridge {name!r} has the name of a host")
    if name in plan.segments:
        raise PlanError(f"there is a bridge {name!r} already" if bridged else f"there is a link {name!r} already")
    if subnet6 == AUTO and not ipv6:
        subnet6 = None
    networks: dict[int, Network] = {}
    for version, word, value in ((4, "subnet", subnet), (6, "subnet6", subnet6)):
        if value is not None and value != AUTO:
            networks[version] = parse_subnet(word, value, version, f"{'bridge' if bridged else 'link'} {name!r}")
    given = (*plan.given, *networks.values())
    automatic = plan.automatic
    wanted = [version for version, value in ((4, subnet), (6, subnet6)) if value == AUTO]
    if wanted:
        number, found = _automatic(plan, wanted, given)
        networks.update(found)
        automatic = number + 1
    check_mtu(mtu, six=6 in networks)
    assert isinstance(mtu, int)
    for word, value in (("stp", stp), ("vlan_filtering", vlan_filtering)):
        if not isinstance(value, bool):
            raise PlanError(f"{word} {value!r}: expected True or False")
    segment = Segment(name, bridged, networks.get(4), networks.get(6), mtu, bool(stp), bool(vlan_filtering))
    return replace(
        plan,
        segments={**plan.segments, name: segment},
        on_segment={**plan.on_segment, name: ()},
        given=given,
        automatic=automatic,
        features=plan.features | {"vlan_filtering"} if vlan_filtering else plan.features,
    )


def _automatic(plan: Plan, wanted: list[int], given: tuple[Network, ...]) -> tuple[int, dict[int, Network]]:
    """The next networks that overlap none in use, of the same number for both IP versions."""
    for number in itertools.count(plan.automatic):
        found = {version: parse_subnet("subnet", automatic_subnet(number, version), version) for version in wanted}
        if not any(_overlap(one, other) for one in found.values() for other in given):
            return number, found
    raise AssertionError("automatic_subnet comes to an end")


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def add_node(plan: Plan, name: str, *, forwards: bool = False, routed: object = True) -> Plan:
    """The plan with a host or router more, on no segment yet.

    Raises:
        PlanError: The name is malformed or taken.
    """
    word = "router" if forwards else "host name"
    if not isinstance(routed, bool):
        raise PlanError(f"routes {routed!r}: expected True or False")
    check_host_name(name, word)
    if name in plan.nodes:
        raise PlanError(f"{word} {name!r}: there is a host of this name already")
    check_resolvable(name, word, plan.nodes)
    if name in plan.segments and plan.segments[name].bridged:
        raise PlanError(f"{word} {name!r}: there is a bridge of this name")
    return replace(
        plan,
        nodes={**plan.nodes, name: Node(name, plan.nodes_made + 1, forwards, routed=routed)},
        of_node={**plan.of_node, name: ()},
        nodes_made=plan.nodes_made + 1,
    )


def add_end(
    plan: Plan,
    node: str,
    segment: str,
    *,
    name: str | None = None,
    ip: str | None = None,
    ip6: str | None = None,
    mac: str | None = None,
    told: Port = PLAIN,
) -> Plan:
    """The plan with an interface more: of ``node``, on ``segment``.

    Args:
        name: ``eth0``, ``eth1`` … if not given.
        ip, ip6: Addresses; the next free one of the segment's networks if not given.
        mac: Hardware address; one that tells node and interface if not given.
        told: How the bridge is to treat it.

    Raises:
        PlanError: Names what is wrong with it.
    """
    own = plan.of_node[node]
    on = plan.segments[segment]
    if on.bridged and len(plan.on_segment[segment]) >= _MOST_PORTS:
        raise PlanError(f"{node} finds no free port on {segment}: Linux gives a bridge {_MOST_PORTS} (BR_MAX_PORTS)")
    if told.in_vlans and not on.vlan_filtering:
        raise PlanError(f"{told}: {segment} knows no VLANs; it does with bridge({segment!r}, vlan_filtering=True)")
    if name is None:
        taken = {end.name for end in own}
        name = next(f"eth{number}" for number in range(len(own) + 1) if f"eth{number}" not in taken)
    else:
        check_interface_name(name, "interface")
        if any(end.name == name for end in own):
            raise PlanError(f"interface {name!r}: {node} has one of this name already")
    check_apart(plan, node, segment, own)
    if mac is not None:
        mac = check_mac("mac", mac)
        check_mac_free(plan, segment, mac, f"mac {mac!r}")
        plan = replace(plan, given_tails=plan.given_tails | {mac[3:]})
    owners, next_free, addresses = dict(plan.owners), dict(plan.next_free), []
    for version, word, value in ((4, "ip", ip), (6, "ip6", ip6)):
        network = on.network(version)
        if network is None:
            if value is not None:
                raise PlanError(f"{word} {value!r}: {segment} has no IPv{version} network")
            continue
        if value is not None:
            address = _given(plan, segment, network, word, value)
        else:
            address, next_free[segment, version] = next_free_address(plan, segment, network, node)
        owners[segment, address] = node
        addresses.append(f"{address}/{network.prefixlen}")
    # Tells node and interface, and is administered locally (IEEE 802).
    tail = _free_tail(plan, plan.nodes[node], own)
    end = End(
        node,
        segment,
        name,
        _FIRST_INDEX + 2 * plan.ends_made,
        mac or f"02:{tail}",
        tuple(addresses),
        free_port_name(plan, node, segment) if on.bridged else "",
        f"fe:{tail}" if on.bridged else "",
        told,
    )
    return replace(
        plan,
        ends=(*plan.ends, end),
        ends_made=plan.ends_made + 1,
        on_segment={**plan.on_segment, segment: (*plan.on_segment[segment], end)},
        of_node={**plan.of_node, node: (*own, end)},
        owners=owners,
        next_free=next_free,
    )


def add_link(plan: Plan, first: str, second: str, subnet: object = AUTO, subnet6: object = AUTO, **more: Any) -> Plan:
    """The plan with two nodes joined directly; takes what :func:`add_segment` does.

    Raises:
        PlanError: Names what is wrong with it.
    """
    if first == second:
        raise PlanError(f"{first} cannot be joined to itself")
    label = f"{first} - {second}"
    name = next(name for name in _numbered(label) if name not in plan.segments)
    plan = add_segment(plan, name, subnet, subnet6, bridged=False, **more)
    for node in (first, second):
        plan = add_end(plan, node, name)
    return plan


def _numbered(label: str) -> Iterator[str]:
    yield label
    yield from (f"{label} {number}" for number in itertools.count(2))


def _free_tail(plan: Plan, node: Node, own: tuple[End, ...]) -> str:
    """The end of a hardware address: tells the node and, within it, the interface."""
    for number in (len(own), *range(256)):
        tail = f"00:00:{node.number >> 8:02x}:{node.number & 255:02x}:{number:02x}"
        taken = tail in plan.given_tails or any(tail in (end.mac[3:], end.port_mac[3:]) for end in own)
        if number < 256 and not taken:
            return tail
    raise PlanError(f"{node.name} has 256 interfaces; there are no more hardware addresses to tell them by")


def _given(plan: Plan, segment: str, network: Network, word: str, value: object) -> str:
    address = address_in(network, word, value)
    owner = plan.owners.get((segment, address))
    if owner is not None:
        raise PlanError(f"{word} {value!r}: {owner} has this address on {segment} already")
    return address


def next_free_address(plan: Plan, segment: str, network: Network, node: str) -> tuple[str, int]:
    """The next address that nobody has, and where to look for the one after it."""
    start = plan.next_free.get((segment, network.version), 0)
    found = free_address(network, start, lambda address: (segment, address) in plan.owners)
    if found is None:
        how = f"all of {network} are taken, or have been; ip=, ip6= say which"
        if free_address(network, 0, lambda address: (segment, address) in plan.owners) is None:
            first, last = host_bounds(network)
            word = "subnet" if network.version == 4 else "subnet6"
            how = f"all of {network} are taken, it holds {last - first + 1} hosts; take a larger {word}= for {segment}"
        raise PlanError(f"{node} finds no free address on {segment}: {how}")
    address, number = found
    return address, number + 1


def free_port_name(plan: Plan, node: str, segment: str) -> str:
    """``veth-NODE`` where that is a name and free, else ``veth-NUMBER``."""
    own = f"veth-{node}"
    # Only the node itself may have it, on another interface; or one that got a number. No look at a thousand others.
    has_it = any(end.segment == segment and end.port == own for end in plan.of_node[node])
    if len(own.encode()) <= 15 and own != segment and not node.isdecimal() and not has_it:
        return own
    taken = {end.port for end in plan.on_segment[segment]} | {segment}
    names = (f"veth-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if len(name.encode()) <= 15 and name not in taken)
