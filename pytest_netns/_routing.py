"""Which way from each node to each network: pure functions of a plan.

Shortest paths, counted in routers; of equal ones the router that was connected first. A plain host gets a default route
where a router leads anywhere, and routes of their own to networks that another router is nearer to. In IPv4, what is
inside of a router that translates is not known outside.
"""

from __future__ import annotations

import operator
from collections import Counter, deque
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import NamedTuple

from ._errors import PlanError, hide_own_frames
from ._plan import End, Plan, Way

__all__ = ["Route", "reaches", "routes"]

__tracebackhide__ = hide_own_frames


class Route(NamedTuple):
    """A route of a node; ``destination`` None is the default route, ``segment`` where ``via`` is."""

    version: int
    destination: str | None
    via: str
    segment: str


def routes(plan: Plan) -> dict[str, tuple[Route, ...]]:
    """The routes of every node that has any: those worked out, and in their place those that users have given."""
    found = _worked_out(plan)
    for (node, version, destination), way in plan.fixed.items():
        if destination is not None and _is_in(plan, node, destination):
            continue  # it has come there since
        others = [route for route in found.get(node, ()) if route[:2] != (version, destination)]
        if way is not None:
            if not _holds(plan, node, way):
                continue  # it has left that segment
            if way.address is not None:
                others.append(Route(version, destination, way.address, way.segment))
        found[node] = tuple(others)
    return found


def reaches(end: End, address: IPv4Address | IPv6Address) -> bool:
    """Whether an interface has an address in whose network another one is: the kernel sends there directly."""
    return any(address in ip_interface(text).network for text in end.addresses)


def _holds(plan: Plan, node: str, way: Way) -> bool:
    on = [end for end in plan.of_node[node] if end.segment == way.segment]
    if way.address is None:
        return bool(on)
    there = ip_address(way.address)
    return any(reaches(end, there) for end in on)


def _is_in(plan: Plan, node: str, network: str) -> bool:
    ends = plan.of_node[node]
    return any(str(ip_interface(text).network) == network for end in ends for text in end.addresses)


def _worked_out(plan: Plan) -> dict[str, tuple[Route, ...]]:
    if not any(node.forwards for node in plan.nodes.values()):
        return {}
    found: dict[str, tuple[Route, ...]] = {}
    for version in (4, 6):
        ways = _Ways(plan, version)
        for name, node in plan.nodes.items():
            these = ways.routes(name) if node.routed else ()
            if these:
                found[name] = (*found.get(name, ()), *these)
    return found


_distance = operator.itemgetter(0)


class _Ways:
    """Distances and next routers between segments, in one IP version."""

    def __init__(self, plan: Plan, version: int) -> None:
        self._plan = plan
        self._version = version
        self._segments = [name for name, segment in plan.segments.items() if segment.network(version) is not None]
        self._networks = {name: str(plan.segments[name].network(version)) for name in self._segments}
        #: By segment: the ends of routers on it.
        self._routers: dict[str, list[End]] = {
            name: [end for end in plan.on_segment[name] if plan.nodes[end.node].forwards and self._at_home(end)]
            for name in self._segments
        }
        #: By router: its segments.
        self._between: dict[str, list[str]] = {
            name: [end.segment for end in plan.of_node[name] if end.segment in self._networks and self._at_home(end)]
            for name, node in plan.nodes.items()
            if node.forwards
        }
        self._end_on: dict[tuple[str, str], End] = {}
        for router, between in self._between.items():
            for segment in between:
                end = next(end for end in plan.of_node[router] if end.segment == segment and self._at_home(end))
                self._end_on[router, segment] = end
        #: To each segment, from each other one that has a way: how many routers, and the end of the first of them.
        self._ways: dict[str, dict[str, tuple[int, End]]] = {name: self._to(name) for name in self._segments}
        self._known: dict[tuple[str, ...], tuple[Route, ...]] = {}

    def _at_home(self, end: End) -> bool:
        """Whether others on its segment can send to it: not if its address there has been taken away."""
        return self._address(end) is not None

    def _address(self, end: End) -> str | None:
        """Its first address in its segment's network; what else it has been given is of other networks."""
        plain = (text.split("/")[0] for text in end.addresses if (":" in text) == (self._version == 6))
        return next((address for address in plain if (end.segment, address) in self._plan.owners), None)

    def _to(self, destination: str) -> dict[str, tuple[int, End]]:
        ways: dict[str, tuple[int, End]] = {}
        seen = set()
        waiting = deque([(destination, 0)])
        while waiting:
            segment, distance = waiting.popleft()
            for end in self._routers[segment]:
                if end.node in seen:
                    continue
                seen.add(end.node)
                for other in self._between[end.node]:
                    if self._hides(end.node, segment, other):
                        continue
                    if other != destination and other not in ways:
                        ways[other] = distance + 1, self._end_on[end.node, other]
                        waiting.append((other, distance + 1))
        return ways

    def _hides(self, router: str, segment: str, other: str) -> bool:
        """Whether a router keeps a segment from those on another one."""
        nat = self._plan.nodes[router].nat
        return nat is not None and self._version == 4 and other == nat.outside != segment

    def routes(self, node: str) -> tuple[Route, ...]:
        """The routes of a node."""
        own = tuple(
            end.segment
            for end in self._plan.of_node[node]
            if end.segment in self._routers and self._at_home(end)  # else the kernel could not send there
        )
        if self._plan.nodes[node].forwards:
            # With a default route a packet that has no way might go in circles (RFC 1812, 4.3.3.1).
            return tuple(self._route(segment, gateway) for segment, gateway in self._gateways(node, own).items())
        if own not in self._known:  # there may be hundreds of hosts on the same segments
            self._known[own] = self._of_host(self._gateways(node, own))
        return self._known[own]

    def _of_host(self, gateways: Mapping[str, End]) -> tuple[Route, ...]:
        if not gateways:
            return ()
        default = Counter(gateways.values()).most_common(1)[0][0]
        others = (self._route(segment, gateway) for segment, gateway in gateways.items() if gateway != default)
        return self._route(None, default), *others

    def _route(self, segment: str | None, gateway: End) -> Route:
        """To a segment, or the default one."""
        address = self._address(gateway)
        assert address is not None
        return Route(self._version, segment and self._networks[segment], address, gateway.segment)

    def _gateways(self, node: str, own: tuple[str, ...]) -> dict[str, End]:
        """By segment: whom a node on these segments sends to. One of two equal networks cannot be meant."""
        found: dict[str, End] = {}
        by_network: dict[str, str] = {}
        here = {self._networks[segment] for segment in own}  # two bridges may have one network
        for destination in self._segments:
            if self._networks[destination] in here:
                continue
            there = self._ways[destination]
            ways = [there[segment] for segment in own if segment in there]
            if ways:
                # A router is never its own nearest: it would be on a segment that is nearer still.
                _, found[destination] = min(ways, key=_distance)
                other = by_network.setdefault(self._networks[destination], destination)
                if found[other] != found[destination]:
                    raise PlanError(
                        f"{node} would have two ways to {self._networks[destination]}: to {other} by "
                        f"{found[other].node}, to {destination} by {found[destination].node}. Give one another subnet, "
                        "or hide them: router(…, nat=OUTSIDE) does it for IPv4"
                    )
        return found
