"""Which way from each node to each network: pure functions of a plan.

Shortest paths, counted in routers; of equal ones the router that was connected first. A plain host gets a default route
where a router leads anywhere, and routes of their own to networks that another router is nearer to.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from ._plan import End, Plan

__all__ = ["Route", "routes"]


@dataclass(frozen=True)
class Route:
    """A route of a node; ``destination`` None is the default route, ``segment`` where ``via`` is."""

    version: int
    destination: str | None
    via: str
    segment: str


def routes(plan: Plan) -> dict[str, tuple[Route, ...]]:
    """The routes of every node that has any."""
    if not any(node.forwards for node in plan.nodes.values()):
        return {}
    found: dict[str, list[Route]] = {}
    for version in (4, 6):
        ways = _Ways(plan, version)
        for name, node in plan.nodes.items():
            gateways = ways.gateways(name)
            if gateways:
                found.setdefault(name, []).extend(_of_node(plan, version, gateways, forwards=node.forwards))
    return {name: tuple(these) for name, these in found.items()}


def _of_node(plan: Plan, version: int, gateways: Mapping[str, End], *, forwards: bool) -> list[Route]:
    """Routes from "by way of which router's end to which segment"."""
    default = None
    these = []
    if not forwards:  # a router without a way answers so (RFC 1812, 4.3.3.1); with a default route it may go in circles
        default = Counter(gateways.values()).most_common(1)[0][0]
        these.append(_route(version, None, default))
    for segment, gateway in gateways.items():
        if gateway != default:
            these.append(_route(version, str(plan.segments[segment].network(version)), gateway))
    return these


def _route(version: int, destination: str | None, gateway: End) -> Route:
    address = gateway.address(version)
    assert address is not None
    return Route(version, destination, address, gateway.segment)


class _Ways:
    """Distances and next routers between segments, in one IP version."""

    def __init__(self, plan: Plan, version: int) -> None:
        self._plan = plan
        self._version = version
        self._segments = [name for name, segment in plan.segments.items() if segment.network(version) is not None]
        usable = set(self._segments)
        #: By segment: the ends of routers on it.
        self._routers: dict[str, list[End]] = {
            name: [end for end in plan.on_segment[name] if plan.nodes[end.node].forwards] for name in self._segments
        }
        #: By router: its segments.
        self._between: dict[str, list[str]] = {
            name: [end.segment for end in plan.of_node[name] if end.segment in usable]
            for name, node in plan.nodes.items()
            if node.forwards
        }
        #: To each segment, from each other one that has a way: how many routers, and the end of the first of them.
        self._ways: dict[str, dict[str, tuple[int, End]]] = {name: self._to(name) for name in self._segments}
        self._known: dict[tuple[str, ...], dict[str, End]] = {}

    def _to(self, destination: str) -> dict[str, tuple[int, End]]:
        ways: dict[str, tuple[int, End]] = {}
        waiting = deque([(destination, 0)])
        while waiting:
            segment, distance = waiting.popleft()
            for end in self._routers[segment]:
                for other in self._between[end.node]:
                    if other != destination and other not in ways:
                        ways[other] = distance + 1, self._end_on(end.node, other)
                        waiting.append((other, distance + 1))
        return ways

    def _end_on(self, router: str, segment: str) -> End:
        return next(end for end in self._plan.of_node[router] if end.segment == segment)

    def gateways(self, node: str) -> dict[str, End]:
        """For each segment that the node is not on and has a way to: the router's end to send to."""
        own = tuple(end.segment for end in self._plan.of_node[node] if end.segment in self._routers)
        if self._plan.nodes[node].forwards:
            return self._gateways(own)
        if own not in self._known:
            self._known[own] = self._gateways(own)
        return self._known[own]

    def _gateways(self, own: tuple[str, ...]) -> dict[str, End]:
        found = {}
        for destination in self._segments:
            if destination in own:
                continue
            ways = [self._ways[destination][segment] for segment in own if segment in self._ways[destination]]
            if ways:
                # A router is never its own nearest: it would be on a segment that is nearer still.
                _, found[destination] = min(ways, key=lambda way: way[0])
        return found
