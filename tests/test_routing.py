"""Routes, worked out without a kernel: each packet is followed by hand, hop by hop, through the plan."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netns._changing import remove
from pytest_netns._nat import Nat, set_nat
from pytest_netns._plan import NOTHING, End, Plan, add_end, add_link, add_node, add_segment
from pytest_netns._routing import Route, routes


def lab(bridges: Iterable[str], hosts: dict[str, str], routers: dict[str, str]) -> Plan:
    """``lab("a b", {"host": "a"}, {"router": "a b"})``."""
    plan = NOTHING
    for bridge in bridges:
        plan = add_segment(plan, bridge)
    for these, forwards in ((hosts, False), (routers, True)):
        for name, on in these.items():
            plan = add_node(plan, name, forwards=forwards)
            for bridge in on.split():
                plan = add_end(plan, name, bridge)
    return plan


def follow(
    plan: Plan, source: str, target: str, version: int, table: dict[str, tuple[Route, ...]] | None = None
) -> list[str] | None:
    """Names on the way of a packet to an address, by connected networks and then routes; None if it is lost."""
    table = routes(plan) if table is None else table
    way = [source]
    while not any(end.address(version) == target for end in plan.of_node[way[-1]]):
        if len(way) > 1 and not plan.nodes[way[-1]].forwards:
            return None
        hop = _next_hop(plan, table.get(way[-1], ()), plan.of_node[way[-1]], target, version)
        if hop is None or hop in way:
            assert hop is None, f"a packet goes in circles: {way} {hop}"
            return None
        way.append(hop)
    return way


def _next_hop(plan: Plan, table: Iterable[Route], own: Iterable[End], target: str, version: int) -> str | None:
    address = ipaddress.ip_address(target)
    for end in own:
        network = plan.segments[end.segment].network(version)
        if network is not None and address in network:
            return plan.owners.get((end.segment, target))
    found = [
        route
        for route in table
        if route.version == version
        and (route.destination is None or address in ipaddress.ip_network(route.destination))
    ]
    if not found:
        return None
    best = max(found, key=lambda route: 0 if route.destination is None else int(route.destination.split("/")[1]))
    on = {end.segment for end in own}
    assert best.segment in on, f"a gateway that is no neighbour: {best}"
    return plan.owners[best.segment, best.via]


def test_without_routers_there_are_no_routes() -> None:
    """Hosts on one segment need none."""
    assert routes(lab("a", {"one": "a", "two": "a"}, {})) == {}


def test_a_host_has_a_default_route_and_a_router_has_one_to_each_network() -> None:
    """Two networks in a row: the default for hosts; the far network, in both families, for routers."""
    plan = lab("abc", {"one": "a", "two": "c"}, {"r1": "a b", "r2": "b c"})
    assert routes(plan) == {
        "one": (Route(4, None, "10.0.0.2", "a"), Route(6, None, "fd00:10::2", "a")),
        "two": (Route(4, None, "10.0.2.2", "c"), Route(6, None, "fd00:10:0:2::2", "c")),
        "r1": (Route(4, "10.0.2.0/24", "10.0.1.2", "b"), Route(6, "fd00:10:0:2::/64", "fd00:10:0:1::2", "b")),
        "r2": (Route(4, "10.0.0.0/24", "10.0.1.1", "b"), Route(6, "fd00:10::/64", "fd00:10:0:1::1", "b")),
    }
    assert follow(plan, "one", "10.0.2.1", 4) == ["one", "r1", "r2", "two"]


def test_a_host_with_two_routers_uses_the_nearer_for_each_network() -> None:
    """The default goes to the one that leads to more; the other's networks have routes of their own."""
    plan = lab("abcd", {"one": "a", "b1": "b", "c1": "c", "d1": "d"}, {"left": "a b", "right": "a c d"})
    assert follow(plan, "one", "10.0.1.1", 4) == ["one", "left", "b1"]
    assert follow(plan, "one", "10.0.3.1", 4) == ["one", "right", "d1"]
    four = [route for route in routes(plan)["one"] if route.version == 4]
    assert [(route.destination, route.via) for route in four] == [(None, "10.0.0.3"), ("10.0.1.0/24", "10.0.0.2")]


def test_the_shortest_way_is_taken_and_of_equal_ones_the_first() -> None:
    """In a ring both ways lead; the shorter one counts, and with equal ones what was connected first."""
    ring = lab("abcd", {"one": "a", "three": "c"}, {"ab": "a b", "bc": "b c", "cd": "c d", "da": "d a"})
    assert follow(ring, "one", "10.0.2.1", 4) == ["one", "ab", "bc", "three"]
    assert follow(ring, "three", "10.0.0.1", 4) in (["three", "bc", "ab", "one"], ["three", "cd", "da", "one"])
    assert routes(ring) == routes(
        lab("abcd", {"one": "a", "three": "c"}, {"ab": "a b", "bc": "b c", "cd": "c d", "da": "d a"})
    )
    shortcut = add_end(add_end(add_node(ring, "ac", forwards=True), "ac", "a"), "ac", "c")
    assert follow(shortcut, "one", "10.0.2.1", 4) == ["one", "ac", "three"]


def test_a_network_that_a_node_is_on_needs_no_route() -> None:
    """Another bridge may have the same one: a route to it would be in the way of the neighbours."""
    plan = NOTHING
    for bridge, subnet in (("near", "10.9.0.0/24"), ("mid", "10.8.0.0/24"), ("far", "10.9.0.0/24")):
        plan = add_segment(plan, bridge, subnet, None)
    for name, forwards, on in (("one", False, "near"), ("r1", True, "near mid"), ("r2", True, "mid far")):
        plan = add_node(plan, name, forwards=forwards)
        for bridge in on.split():
            plan = add_end(plan, name, bridge)
    assert routes(plan) == {"one": (Route(4, None, "10.9.0.2", "near"),)}


def test_routes_heal_when_a_router_is_removed() -> None:
    """Without a router the other way around is taken; without that one there is none."""
    ring = lab("abcd", {"one": "a", "three": "c"}, {"ab": "a b", "bc": "b c", "cd": "c d", "da": "d a"})
    half = remove(ring, {"bc"})
    assert follow(half, "one", "10.0.2.1", 4) == ["one", "da", "cd", "three"]
    assert follow(remove(half, {"da"}), "one", "10.0.2.1", 4) is None


def test_a_family_goes_its_own_ways() -> None:
    """Over a segment without IPv6, only IPv4 is routed."""
    plan = add_segment(add_segment(add_segment(NOTHING, "a"), "b", subnet6=None), "c")
    for name, on, forwards in (("one", "a", False), ("two", "c", False), ("r1", "ab", True), ("r2", "bc", True)):
        plan = add_node(plan, name, forwards=forwards)
        for bridge in on:
            plan = add_end(plan, name, bridge)
    one, two = plan.of_node["one"][0], plan.of_node["two"][0]
    assert follow(plan, "one", str(two.address(4)), 4) == ["one", "r1", "r2", "two"]
    assert follow(plan, "two", str(one.address(6)), 6) is None
    assert {route.version for route in routes(plan)["r1"]} == {4}


def test_links_are_segments_like_bridges() -> None:
    """Routers joined directly pass packets on."""
    plan = lab("ab", {"one": "a", "two": "b"}, {"r1": "a", "r2": "b"})
    plan = add_link(plan, "r1", "r2")
    assert follow(plan, "one", "10.0.1.1", 4) == ["one", "r1", "r2", "two"]


@pytest.mark.parametrize("version", [4, 6])
def test_a_chain_of_a_hundred_routers(version: int) -> None:
    """From one end to the other, over every router in turn."""
    bridges = [f"b{number}" for number in range(101)]
    routers = {f"r{number}": f"b{number} b{number + 1}" for number in range(100)}
    plan = lab(bridges, {"first": "b0", "last": "b100"}, routers)
    target = plan.of_node["last"][0].address(version)
    assert follow(plan, "first", str(target), version) == ["first", *routers, "last"]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any few bridges, hosts and routers on any of them, links between any, and NAT on some of what routers are on."""
    bridges = [f"b{number}" for number in range(draw(st.integers(1, 6)))]
    plan = NOTHING
    for name in bridges:
        families = draw(st.sampled_from(["both", "4", "6"]))
        plan = add_segment(plan, name, None if families == "6" else "auto", None if families == "4" else "auto")
    nodes = draw(st.lists(st.booleans(), min_size=1, max_size=8))
    for number, forwards in enumerate(nodes):
        plan = add_node(plan, f"n{number}", forwards=forwards)
        for name in draw(st.lists(st.sampled_from(bridges), max_size=3, unique=True)):
            plan = add_end(plan, f"n{number}", name)
    names = list(plan.nodes)
    for _ in range(draw(st.integers(0, 3)) if len(names) > 1 else 0):
        first, second = draw(st.lists(st.sampled_from(names), min_size=2, max_size=2, unique=True))
        plan = add_link(plan, first, second)
    for name in names:
        outside = [end.segment for end in plan.of_node[name]]
        if plan.nodes[name].forwards and outside and draw(st.booleans()):
            plan = set_nat(plan, name, Nat(draw(st.sampled_from(outside))))
    return plan


def reached_by_flooding(plan: Plan, source: str, version: int) -> set[str]:
    """Addresses that a flood over segments and routers gets to: how it ought to be, worked out another way."""
    segments: set[str] = set()
    waiting = [end.segment for end in plan.of_node[source]]
    while waiting:
        segment = waiting.pop()
        if segment in segments or plan.segments[segment].network(version) is None:
            continue
        segments.add(segment)
        for end in plan.on_segment[segment]:
            nat = plan.nodes[end.node].nat
            kept_out = version == 4 and nat is not None and nat.outside == segment
            if plan.nodes[end.node].forwards and not kept_out:
                waiting += [other.segment for other in plan.of_node[end.node]]
    return {str(end.address(version)) for segment in segments for end in plan.on_segment[segment]}


@settings(max_examples=100, deadline=None, database=None)
@given(plans(), st.sampled_from([4, 6]))
def test_in_any_plan_all_that_is_connected_is_reached(plan: Plan, version: int) -> None:
    """From each node, each address is reached exactly if a flood reaches it; and nothing goes in circles."""
    addresses = {str(end.address(version)) for end in plan.ends if end.address(version)}
    table = routes(plan)
    for node in plan.nodes:
        within = reached_by_flooding(plan, node, version)
        for address in addresses:
            assert (follow(plan, node, address, version, table) is not None) == (address in within)
