"""Who is met at which address, as behind routers that translate: pure functions of a plan."""

from __future__ import annotations

import functools
import ipaddress
from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Network

from ._plan import Plan
from ._routing import Route, routes

__all__ = ["Passed", "all_routed", "answering", "hidden", "shared", "unseen", "way"]

#: A host or router that a packet gets to, and the segment that it comes from; None where it begins.
Passed = tuple[str, "str | None"]

_routes = functools.lru_cache(1)(routes)  # of the plan that is asked about again and again


@functools.lru_cache(1)
def shared(plan: Plan) -> frozenset[str]:
    """The addresses that several hosts have, on segments of their own each."""
    counted = Counter(address for _, address in plan.owners)
    return frozenset(address for address, number in counted.items() if number > 1)


@functools.lru_cache(1)
def all_routed(plan: Plan) -> Plan:
    """The plan as it is when the programs that make the routes of its unrouted hosts have made all of them."""
    if all(node.routed for node in plan.nodes.values()):
        return plan
    return replace(plan, nodes={name: node._replace(routed=True) for name, node in plan.nodes.items()})


def hidden(plan: Plan, place: str, name: str) -> frozenset[str]:
    """The IPv4 addresses of a host that nobody gets to from a place, as others of it are on this side of a NAT.

    None if all are on the other side: what is there is not told from what is not reached.
    """
    open_to = _open_to(plan, tuple(dict.fromkeys(end.segment for end in plan.of_node.get(place, ()))))
    if open_to is None:
        return frozenset()
    four = [
        (end.segment, text.split("/")[0])
        for end in plan.of_node.get(name, ())
        for text in end.addresses
        if ":" not in text
    ]
    away = frozenset(address for segment, address in four if segment not in open_to)
    return away if len(away) < len(four) else frozenset()


def unseen(plan: Plan, segment: str) -> list[IPv4Network]:
    """The IPv4 networks that nobody gets to from a segment, and from wherever its packets get to.

    So whatever comes from there, by way of this segment, is no answer to anybody.
    """
    open_to = _open_to(plan, (segment,)) or frozenset(plan.segments)
    met = [network for name in open_to if (network := plan.segments[name].subnet) is not None]
    away = [each.subnet for name, each in plan.segments.items() if name not in open_to and each.subnet is not None]
    alone = (network for network in away if not any(network.overlaps(other) for other in met))
    return list(ipaddress.collapse_addresses(each for each in alone if isinstance(each, IPv4Network)))


def _open_to(plan: Plan, segments: tuple[str, ...]) -> frozenset[str] | None:
    """The segments that IPv4 packets from these get to; None if that is all of them, or nothing is sent."""
    known = _known(plan)
    if known is None or not segments:
        return None
    if segments not in known:
        known[segments] = _from(plan, segments)
    return known[segments]


@functools.lru_cache(1)
def _known(plan: Plan) -> dict[tuple[str, ...], frozenset[str]] | None:
    """What has been found of a plan: hundreds of hosts may be on the same segments. None if nothing translates."""
    return {} if any(node.nat is not None for node in plan.nodes.values()) else None


def _from(plan: Plan, segments: tuple[str, ...]) -> frozenset[str]:
    found, waiting = set(segments), list(segments)
    while waiting:
        here = waiting.pop()
        for end in plan.on_segment[here]:
            node = plan.nodes[end.node]
            if node.forwards and (node.nat is None or node.nat.outside != here):
                new = {other.segment for other in plan.of_node[end.node]} - found
                found |= new
                waiting += new
    return frozenset(found)


def answering(plan: Plan, source: str, address: str) -> str | None:
    """The host that a packet to an address gets to; None if it gets to none."""
    passed = way(plan, source, address)
    return passed[-1][0] if passed else None


def way(plan: Plan, source: str, address: str) -> list[Passed]:
    """By whom a packet to an address comes, from the source on; empty if it gets to nobody.

    Source: RFC 1812, 5.2.4.3: the longest prefix, of which the networks that a host is on are some.
    """
    passed: list[Passed] = [(source, None)]
    while True:
        place, _ = passed[-1]
        if any(text.split("/")[0] == address for end in plan.of_node.get(place, ()) for text in end.addresses):
            return passed
        if place != source and not plan.nodes[place].forwards:
            return []
        found = _next(plan, place, address)
        if found is None or any(found[0] == each for each, _ in passed):
            return []
        passed.append(found)


def _next(plan: Plan, place: str, address: str) -> tuple[str, str] | None:
    target = ipaddress.ip_address(address)
    for end in plan.of_node.get(place, ()):
        network = plan.segments[end.segment].network(target.version)
        if network is not None and target in network:
            return _owner(plan, end.segment, address)
    known = _routes(plan).get(place, ())
    ways = [each for each in known if each.version == target.version and _length(each, target) >= 0]
    best = max(ways, key=lambda each: _length(each, target), default=None)
    return None if best is None else _owner(plan, best.segment, best.via)


def _owner(plan: Plan, segment: str, address: str) -> tuple[str, str] | None:
    owner = plan.owners.get((segment, address))
    return None if owner is None else (owner, segment)


def _length(route: Route, target: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    """How long its prefix is; -1 if it leads elsewhere."""
    if route.destination is None:
        return 0
    network = ipaddress.ip_network(route.destination)
    return network.prefixlen if target in network else -1
