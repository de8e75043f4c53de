"""A plan changed while its lab runs: what is removed, addresses, cables, MTUs, routes; pure functions."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from ._addresses import address_in
from ._apart import check_apart, check_mac_free
from ._checks import check_mtu
from ._errors import PlanError, hide_own_frames
from ._plan import AUTO, NOTHING, End, Node, Plan, Way, free_port_name, next_free_address
from ._port import PLAIN
from ._routing import reaches

__all__ = [
    "find_end",
    "fix_route",
    "give_address",
    "parse_address",
    "remove",
    "replug",
    "route_destination",
    "same_address",
    "set_mtu",
    "take_address",
    "ways_to",
]

__tracebackhide__ = hide_own_frames


def parse_address(address: object) -> str:
    """An address with its prefix length, as the kernel writes it.

    Raises:
        PlanError: It is none. Without a prefix length it would have no network, and nobody would be reached from it.
    """
    try:
        plain, length = address.split("/")  # type: ignore[attr-defined]
        if "%" in plain:
            raise ValueError("an interface's name")
        return str(ipaddress.ip_interface(f"{plain}/{int(length)}"))
    except (ValueError, AttributeError):
        raise PlanError(
            f"address {address!r}: expected one with its prefix length, such as '10.0.0.9/24' or 'fd00:10::9/64'"
        ) from None


def same_address(given: object) -> object:
    """What users call an address, with or without prefix length, as the kernel writes it; as it is if it is none."""
    if not isinstance(given, str):
        return given
    try:
        return str(ipaddress.ip_interface(given)) if "/" in given else str(ipaddress.ip_address(given))
    except ValueError:
        return given


def find_end(plan: Plan, node: str, interface: str) -> End | None:
    """The interface of a node; None if the plan does not know it."""
    return next((end for end in plan.of_node.get(node, ()) if end.name == interface), None)


def _end(plan: Plan, node: str, interface: str) -> End:
    end = find_end(plan, node, interface)
    if end is None:
        raise PlanError(f"{node} has no interface {interface!r} that its lab has made")
    return end


def _with(plan: Plan, old: End, new: End) -> Plan:
    """The plan with another end in the place of one."""

    def swapped(ends: Iterable[End]) -> tuple[End, ...]:
        return tuple(new if end is old else end for end in ends)

    on_segment = dict(plan.on_segment)
    if old.segment == new.segment:
        on_segment[new.segment] = swapped(on_segment[new.segment])
    else:
        on_segment[old.segment] = tuple(end for end in on_segment[old.segment] if end is not old)
        on_segment[new.segment] = (*on_segment[new.segment], new)
    owners = dict(plan.owners)
    for text in old.addresses:
        if owners.get((old.segment, _plain(text))) == old.node:
            del owners[old.segment, _plain(text)]
            for end in on_segment[old.segment]:  # another may have it, too
                if any(_plain(each) == _plain(text) for each in end.addresses) and end is not new:
                    owners[old.segment, _plain(text)] = end.node
                    break
    for text in new.addresses:
        if _is_in(plan, new.segment, text):
            owners.setdefault((new.segment, _plain(text)), new.node)
    return replace(
        plan,
        ends=swapped(plan.ends),
        on_segment=on_segment,
        of_node={**plan.of_node, new.node: swapped(plan.of_node[new.node])},
        owners=owners,
    )


def _plain(address: str) -> str:
    return address.partition("/")[0]


def _is_in(plan: Plan, segment: str, address: str) -> bool:
    parsed = ipaddress.ip_interface(address).ip
    network = plan.segments[segment].network(parsed.version)
    return network is not None and parsed in network


def give_address(plan: Plan, node: str, interface: str, address: str) -> Plan:
    """The plan with one more address on an interface; others may have the same.

    Raises:
        PlanError: The interface has it already; in IPv6 also with another prefix length, as Linux has it.
    """
    old = _end(plan, node, interface)
    if any(address == text or (":" in text and _plain(address) == _plain(text)) for text in old.addresses):
        raise PlanError(f"address {address!r}: {interface} of {node} has it already; it has {', '.join(old.addresses)}")
    return _with(plan, old, replace(old, addresses=(*old.addresses, address)))


def take_address(plan: Plan, node: str, interface: str, address: str) -> Plan:
    """The plan with one address less on an interface, given with or without prefix length.

    Raises:
        PlanError: The interface has no such address.
    """
    old = _end(plan, node, interface)
    same = same_address(address)
    left = tuple(text for text in old.addresses if same not in (text, _plain(text)))
    if left == old.addresses:
        has = ", ".join(old.addresses) or "none"
        raise PlanError(f"address {address!r}: {interface} of {node} has been given {has}")
    return _with(plan, old, replace(old, addresses=left))


def replug(plan: Plan, node: str, interface: str, segment: str, *, ip: str | None, ip6: str | None) -> Plan:
    """The plan with the cable of an interface in another bridge, or in the same one anew.

    Args:
        ip, ip6: Its addresses there; ``"auto"`` for the next free one of the bridge's network, None for none.

    Raises:
        PlanError: It cannot be.
    """
    old = _end(plan, node, interface)
    if not plan.segments[old.segment].bridged:
        raise PlanError(f"{interface} of {node} is one end of a direct link; only cables of bridges can be replugged")
    if segment != old.segment:
        check_apart(plan, node, segment, (end for end in plan.of_node[node] if end is not old))
        check_mac_free(plan, segment, old.mac, f"{interface} of {node} has the hardware address {old.mac}")
    plan = _with(plan, old, bare := replace(old, addresses=()))
    addresses, next_free = [], dict(plan.next_free)
    for version, word, value in ((4, "ip", ip), (6, "ip6", ip6)):
        network = plan.segments[segment].network(version)
        if value is None or (value == AUTO and network is None):
            continue
        if network is None:
            raise PlanError(f"{word} {value!r}: {segment} has no IPv{version} network")
        if value == AUTO:
            address, next_free[segment, version] = next_free_address(plan, segment, network, node)
        else:
            address = address_in(network, word, value)
            owner = plan.owners.get((segment, address))
            if owner is not None:
                raise PlanError(f"{word} {value!r}: {owner} has this address on {segment} already")
        addresses.append(f"{address}/{network.prefixlen}")
    port = old.port if segment == old.segment else free_port_name(plan, node, segment)
    told = old.told if segment == old.segment else PLAIN  # it was the other bridge's port that was told
    new = replace(bare, segment=segment, addresses=tuple(addresses), port=port, told=told)
    return replace(_with(_moved_outside(plan, old, segment), bare, new), next_free=next_free)


def _moved_outside(plan: Plan, old: End, segment: str) -> Plan:
    """What is outside of a router that translates is where its cable leads."""
    node = plan.nodes[old.node]
    stays = any(end.segment == old.segment and end.name != old.name for end in plan.of_node[old.node])
    if node.nat is None or node.nat.outside != old.segment or stays:
        return plan
    return replace(plan, nodes={**plan.nodes, old.node: node._replace(nat=replace(node.nat, outside=segment))})


def remove(plan: Plan, names: Collection[str]) -> Plan:
    """The plan without these nodes and bridges, and without the interfaces and links that led to them.

    A router whose outside is among them translates no more, and forwards to them end.
    """
    lost = {
        name
        for name, ends in plan.on_segment.items()
        if name in names or (not plan.segments[name].bridged and any(end.node in names for end in ends))
    }

    def stays(end: End) -> bool:
        return end.node not in names and end.segment not in lost

    segments = {name: segment for name, segment in plan.segments.items() if name not in lost}
    gone = lost.union(names)
    nodes = {name: _left(node, gone) for name, node in plan.nodes.items() if name not in names}
    if not segments and not nodes:
        return NOTHING
    return replace(
        plan,
        segments=segments,
        nodes=nodes,
        ends=tuple(end for end in plan.ends if stays(end)),
        on_segment={name: tuple(end for end in plan.on_segment[name] if stays(end)) for name in segments},
        of_node={name: tuple(end for end in plan.of_node[name] if stays(end)) for name in nodes},
        owners=_owners_left(plan, nodes, segments, stays),
        next_free={key: number for key, number in plan.next_free.items() if key[0] not in lost},
        fixed={
            key: way
            for key, way in plan.fixed.items()
            if key[0] in nodes and (way is None or (way.segment not in lost and way.host not in names))
        },
    )


def _left(node: Node, gone: Collection[str]) -> Node:
    if node.nat is not None and node.nat.outside in gone:
        return node._replace(nat=None, port_forwards=())
    if any(each.to in gone for each in node.port_forwards):
        return node._replace(port_forwards=tuple(each for each in node.port_forwards if each.to not in gone))
    return node


def _owners_left(
    plan: Plan, nodes: Collection[str], segments: Collection[str], stays: Callable[[End], bool]
) -> dict[tuple[str, str], str]:
    left: dict[tuple[str, str], str] = {}
    for (segment, address), node in plan.owners.items():
        if segment not in segments:
            continue
        if node in nodes:
            left[segment, address] = node
            continue
        for end in plan.on_segment[segment]:  # another may have it, too
            if stays(end) and any(text.split("/")[0] == address for text in end.addresses):
                left[segment, address] = end.node
                break
    return left


def set_mtu(plan: Plan, node: str, interface: str, mtu: object) -> Plan:
    """The plan with another MTU on both ends of an interface's cable.

    Raises:
        PlanError: It is none, or too small for IPv6 on an interface that has IPv6 addresses.
    """
    old = _end(plan, node, interface)
    ends = [old] if old.port else list(plan.on_segment[old.segment])
    check_mtu(mtu, six=any(":" in text for end in ends for text in end.addresses))
    assert isinstance(mtu, int)
    for end in ends:
        plan = _with(plan, end, replace(end, mtu=mtu))
    return plan


def route_destination(to: object) -> tuple[str | None, tuple[int, ...]]:
    """A destination as users write it: None for the default route; and the IP versions that it may mean.

    Raises:
        PlanError: It is neither ``"default"`` nor a network.
    """
    if to == "default":
        return None, (4, 6)
    try:
        network = ipaddress.ip_network(to if isinstance(to, str) and "%" not in to else "", strict=False)
    except ValueError:
        raise PlanError(f"route to {to!r}: expected 'default' or a network such as '192.0.2.0/24'") from None
    if network.network_address != ipaddress.ip_interface(str(to)).ip:
        raise PlanError(f"route to {to!r} has host bits set; the network is {str(network)!r}")
    if network.prefixlen == 0:
        return None, (network.version,)
    return str(network), (network.version,)


def ways_to(plan: Plan, node: str, via: str, versions: Collection[int]) -> list[tuple[int, Way]]:
    """How a node sends by way of a host of the plan, or an address, by IP version.

    Raises:
        PlanError: They have no segment in common; or no interface of the node is in a network of that address.
    """
    if via in plan.nodes:
        return _ways_to_node(plan, node, via, versions)
    try:
        there = ipaddress.ip_address(via)
    except ValueError:
        raise PlanError(f"route via {via!r}: expected a host of the lab, its name or an address") from None
    if there.version not in versions:
        raise PlanError(f"route via {via!r}: expected an address of the same IP version as the destination's")
    for end in plan.of_node[node]:
        if reaches(end, there):
            return [(there.version, Way(str(there), end.segment))]
    raise PlanError(f"route via {via!r}: {node} has no interface in a network of this address")


def _ways_to_node(plan: Plan, node: str, via: str, versions: Collection[int]) -> list[tuple[int, Way]]:
    ways: dict[int, Way] = {}
    both = [(end, other) for end in plan.of_node[node] for other in plan.on_segment[end.segment] if node != via]
    for end, other in both:
        if other.node != via:
            continue
        for text in other.addresses:
            there = ipaddress.ip_interface(text).ip
            if there.version in versions and reaches(end, there):
                ways.setdefault(there.version, Way(str(there), end.segment, via))
    if not ways:
        raise PlanError(f"route via {via}: {node} and {via} are on no common bridge with addresses there")
    return list(ways.items())


def fix_route(plan: Plan, node: str, to: object, via: str | None) -> Plan:
    """The plan with a route as it is said, instead of the one that would be worked out; ``via`` None for none.

    ``via`` ``"auto"`` is the one that is worked out, again. A route holds while the node has an
    end on its segment, and until the host that it leads over is removed.

    Raises:
        PlanError: It cannot be.
    """
    destination, versions = route_destination(to)
    if destination is not None and via != AUTO:
        for end in plan.of_node[node]:
            if any(str(ipaddress.ip_interface(text).network) == destination for text in end.addresses):
                raise PlanError(f"route to {to!r}: {node} is in this network itself, by {end.name}")
    fixed = dict(plan.fixed)
    for version in versions:
        fixed[node, version, destination] = None
        if via == AUTO:
            del fixed[node, version, destination]
    if via not in (None, AUTO):
        assert via is not None
        ways = dict(ways_to(plan, node, via, versions))
        known = next(iter(ways.values()))
        for version in versions:  # none in the other one, as long as that holds
            fixed[node, version, destination] = ways.get(version) or known._replace(address=None)
    return replace(plan, fixed=fixed)
