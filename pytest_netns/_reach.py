"""Who answers where several hosts have one address, as behind two routers that translate: pure functions of a plan."""

from __future__ import annotations

import functools
import ipaddress
from collections import Counter

from ._plan import Plan
from ._routing import Route, routes

__all__ = ["answering", "shared"]

_routes = functools.lru_cache(1)(routes)  # of the plan that is asked about again and again


@functools.lru_cache(1)
def shared(plan: Plan) -> frozenset[str]:
    """The addresses that several hosts have, on segments of their own each."""
    counted = Counter(address for _, address in plan.owners)
    return frozenset(address for address, number in counted.items() if number > 1)


def answering(plan: Plan, source: str, address: str) -> str | None:
    """The host that a packet to an address gets to; None if it gets to none.

    Source: RFC 1812, 5.2.4.3: the longest prefix, of which the networks that a host is on are some.
    """
    place, passed = source, set[str]()
    while place not in passed:
        if any(text.split("/")[0] == address for end in plan.of_node.get(place, ()) for text in end.addresses):
            return place
        if place != source and not plan.nodes[place].forwards:
            return None
        passed.add(place)
        found = _next(plan, place, address)
        if found is None:
            return None
        place = found
    return None


def _next(plan: Plan, place: str, address: str) -> str | None:
    target = ipaddress.ip_address(address)
    for end in plan.of_node.get(place, ()):
        network = plan.segments[end.segment].network(target.version)
        if network is not None and target in network:
            return plan.owners.get((end.segment, address))
    ways = [way for way in _routes(plan).get(place, ()) if way.version == target.version and _length(way, target) >= 0]
    best = max(ways, key=lambda way: _length(way, target), default=None)
    return None if best is None else plan.owners.get((best.segment, best.via))


def _length(way: Route, target: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    """How long its prefix is; -1 if it leads elsewhere."""
    if way.destination is None:
        return 0
    network = ipaddress.ip_network(way.destination)
    return network.prefixlen if target in network else -1
