"""What to ask the kernel for, so that one plan becomes the next: a pure function of the two."""

from __future__ import annotations

import socket
import weakref
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from . import _requests
from ._change_steps import Alterations, add_changes
from ._plan import BRIDGE_INDEX, NOTHING, End, Plan
from ._port import PLAIN
from ._routing import Route, routes

if TYPE_CHECKING:
    from ._nat_rules import Forwarded

__all__ = ["Cable", "Steps", "Tables", "steps"]

#: Routing tables of interfaces that belong to a VRF, by host and index.
Tables = Mapping[tuple[str, int], int]

#: A new bridge with more ports is switched on last, when its hosts have said what a host says that gets an address
#: (MLD, router solicitation): each would say it to all others, to nobody's use, and n hosts would take time for n * n.
_MANY_PORTS = 32
_USUAL_MTU = 1500


class Cable(NamedTuple):
    """A veth pair; the near end is the one in the bridge, if there is one."""

    near: _requests.End
    far: _requests.End
    mtu: int
    far_place: str


@dataclass
class Steps:
    """Requests by place (host or bridge), in the order in which they are to be sent."""

    #: Interfaces that go, by the place that stays: their veth pairs lead to one that goes.
    unplug: dict[str, list[_requests.Request]] = field(default_factory=dict)
    #: Places that need a namespace, hosts first; and those of them that forward.
    places: list[str] = field(default_factory=list)
    routers: list[str] = field(default_factory=list)
    bridges: dict[str, _requests.Request] = field(default_factory=dict)
    #: What these are like, if another lab's may stand in for them: plain ones, with ports.
    like: dict[str, bytes] = field(default_factory=dict)
    #: Rules of routers that translate, in nft's language; and those of before, if all is to be forgotten.
    rules: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    #: Ports of them that lead elsewhere now: who had one outside has it no longer.
    freed: dict[str, list[Forwarded]] = field(default_factory=dict)
    #: By the place that the near end is made in.
    cables: dict[str, list[Cable]] = field(default_factory=dict)
    #: In bridges, right after their cables: what ports are told.
    ports: dict[str, list[_requests.Request]] = field(default_factory=dict)
    #: In hosts: ends of direct links up, for labs that settle in portions: none has a carrier before the other is up.
    link_up: dict[str, list[_requests.Request]] = field(default_factory=dict)
    #: In hosts: interfaces up, read, addressed; then routed.
    settle: dict[str, list[_requests.Request]] = field(default_factory=dict)
    #: In bridges, afterwards: a port has a carrier only once the far end is up.
    read: dict[str, list[_requests.Request]] = field(default_factory=dict)
    #: Indexes of interfaces, and IPv6 addresses, that are waited for.
    ready: dict[str, tuple[list[int], list[tuple[int, bytes]]]] = field(default_factory=dict)
    #: Bridges that run the spanning tree protocol, and their ports that are waited for.
    forwarding: dict[str, list[int]] = field(default_factory=dict)
    #: Of interfaces that stay, but are others now.
    changes: Alterations = field(default_factory=Alterations)


#: From nothing to the plans that are still in use: that of a pair is asked for again and again.
_known: weakref.WeakKeyDictionary[Plan, Steps] = weakref.WeakKeyDictionary()


def steps(
    old: Plan, new: Plan, asleep: Collection[tuple[str, str]] = (), tables: Tables = MappingProxyType({})
) -> Steps:
    """The steps from one plan to the next; ``asleep`` are interfaces (host, name) that are switched off."""
    if old is not NOTHING:
        return _steps(old, new, asleep, tables)
    if new not in _known:
        _known[new] = _steps(old, new)
    return _known[new]


def _steps(
    old: Plan, new: Plan, asleep: Collection[tuple[str, str]] = (), tables: Tables = MappingProxyType({})
) -> Steps:
    todo = Steps()
    _add_unplugging(todo, old, new)
    fresh = [name for name in new.nodes if name not in old.nodes]
    bridges = [name for name in new.bridges if name not in old.segments]
    todo.places = [*fresh, *bridges]
    todo.routers = [name for name in fresh if new.nodes[name].forwards]
    for name in bridges:
        late = len(new.on_segment[name]) > _MANY_PORTS
        segment = new.segments[name]
        todo.bridges[name] = _requests.add_bridge(
            name, BRIDGE_INDEX, up=not late, stp=segment.stp, vlan_filtering=segment.vlan_filtering
        )
        plain = not (segment.stp or segment.vlan_filtering) and segment.mtu == _USUAL_MTU
        if plain and 0 < len(new.on_segment[name]) <= _MANY_PORTS:
            todo.like[name] = todo.bridges[name].data
        if late:
            todo.read[name] = [_requests.set_link(BRIDGE_INDEX, up=True, what=f"set {name} up")]
    for name in fresh:
        todo.settle[name] = [_requests.set_link(1, up=True, what="set lo up")]
    made = {(end.node, end.name) for end in old.ends}
    ends = [end for end in new.ends if (end.node, end.name) not in made]
    _add_cables(todo, new, ends)
    _add_settling(todo, new, ends)
    for name in bridges:
        todo.read.setdefault(name, []).append(_requests.get_link(BRIDGE_INDEX))
        todo.ready.setdefault(name, ([], []))
    if old is not NOTHING:
        add_changes(todo, old, new, asleep)
    _add_routes(todo, old, new, asleep, tables)
    _add_rules(todo, old, new)
    return todo


def _add_unplugging(todo: Steps, old: Plan, new: Plan) -> None:
    kept = {(end.node, end.name) for end in new.ends}
    for end in old.ends:
        if (end.node, end.name) in kept:
            continue
        segment = old.segments[end.segment]
        if segment.bridged and segment.name in new.segments:
            todo.unplug.setdefault(segment.name, []).append(_requests.delete_link(end.port_index))
        elif segment.bridged and end.node in new.nodes:
            todo.unplug.setdefault(end.node, []).append(_requests.delete_link(end.index))
        elif end.node in new.nodes:  # one request ends both ends of a link
            first = next(each for each in old.on_segment[segment.name] if each.node in new.nodes)
            if first is end:
                todo.unplug.setdefault(end.node, []).append(_requests.delete_link(end.index))


def _add_cables(todo: Steps, plan: Plan, ends: list[End]) -> None:
    waiting: dict[str, End] = {}
    for end in ends:
        segment = plan.segments[end.segment]
        own = _requests.End(end.name, end.index, end.mac)
        if segment.bridged:
            port = _requests.End(end.port, end.port_index, end.port_mac, BRIDGE_INDEX)
            todo.cables.setdefault(segment.name, []).append(Cable(port, own, segment.mtu, end.node))
            todo.read.setdefault(segment.name, []).append(_requests.get_link(end.port_index))
            todo.ready.setdefault(segment.name, ([], []))[0].append(end.port_index)
            if end.told is not PLAIN:
                todo.ports.setdefault(segment.name, []).extend(_port(end))
            if segment.stp:
                todo.forwarding.setdefault(segment.name, []).append(end.port_index)
        elif segment.name in waiting:
            first = waiting.pop(segment.name)
            near = _requests.End(first.name, first.index, first.mac)
            todo.cables.setdefault(first.node, []).append(Cable(near, own, segment.mtu, end.node))
        else:
            waiting[segment.name] = end


def _port(end: End) -> list[_requests.Request]:
    told, requests = end.told, []
    if told.isolated:
        requests.append(_requests.isolate_port(end.port_index, end.port))
    if told.in_vlans:  # instead of VLAN 1, in which every port begins
        requests.append(_requests.set_vlan(end.port_index, 1, there=False, what=f"take {end.port} out of VLAN 1"))
    for number in (*told.tagged, *([told.vlan] if told.vlan else [])):
        tagged = number != told.vlan
        requests.append(
            _requests.set_vlan(end.port_index, number, tagged=tagged, what=f"put {end.port} into VLAN {number}")
        )
    return requests


def _add_settling(todo: Steps, plan: Plan, ends: list[End]) -> None:
    by_node: dict[str, list[End]] = {}
    for end in ends:
        by_node.setdefault(end.node, []).append(end)
    for node, own in by_node.items():
        requests = todo.settle.setdefault(node, [])
        ups = [_requests.set_link(end.index, up=True, what=f"set {end.name} up") for end in own]
        of_links = [up for up, end in zip(ups, own, strict=True) if not plan.segments[end.segment].bridged]
        if of_links:
            todo.link_up[node] = of_links
        requests += ups
        # Before the addresses: an IPv6 address becomes usable only on an interface that is ready.
        requests += [_requests.get_link(end.index) for end in own]
        six = []
        for end in own:
            for text in end.addresses:
                address, _, length = text.partition("/")
                requests.append(_requests.add_address(end.index, address, int(length)))
                if ":" in address:
                    six.append((end.index, socket.inet_pton(socket.AF_INET6, address)))
        todo.ready[node] = [end.index for end in own], six


def _add_routes(todo: Steps, old: Plan, new: Plan, asleep: Collection[tuple[str, str]], tables: Tables) -> None:
    before = routes(old) if old.nodes else {}
    after = routes(new)
    for node in new.nodes:
        these, had = after.get(node, ()), before.get(node, ())
        # Routes over an interface that has gone, or is switched off, have gone with it; they come with it.
        awake = [end for end in new.of_node[node] if (node, end.name) not in asleep]
        # With its last address an interface loses all its routes, so of a host with changed ones all are asked for.
        changed = node in todo.changes.nodes
        wanted, known = set(these), frozenset() if changed else set(had)
        were = old.of_node.get(node, ()) if changed else awake
        gone = [
            _requests.delete_route(*words)
            for route in had
            if route not in wanted
            for words in _words(route, were, tables)
        ]
        if gone:
            todo.changes.leave[node] = [*gone, *todo.changes.leave.get(node, ())]
        # Where programs have run there may be a route of theirs.
        ask = _requests.restore_route if node in old.nodes else _requests.add_route
        requests = [ask(*words) for route in these if route not in known for words in _words(route, awake, tables)]
        if requests:
            todo.settle.setdefault(node, []).extend(requests)


def _add_rules(todo: Steps, old: Plan, new: Plan) -> None:
    routers = [name for name, node in new.nodes.items() if node.nat or (name in old.nodes and old.nodes[name].nat)]
    if not routers:
        return
    from ._nat_rules import NOTHING_LEFT, nat_rules

    for name in routers:
        before = nat_rules(old, name) if name in old.nodes else None
        after = nat_rules(new, name)
        if after is None:
            if before is not None:
                todo.rules[name] = NOTHING_LEFT, before.table + before.forwards
        elif before is None or before.table != after.table:
            told = NOTHING_LEFT if before is None else before.table + before.forwards
            todo.rules[name] = after.table + after.forwards, told if name in old.nodes else None
        elif before.forwards != after.forwards:
            todo.rules[name] = after.forwards, None
            todo.freed[name] = sorted(after.forwarded - before.forwarded)


def _words(route: Route, ends: Iterable[End], tables: Tables) -> list[tuple[int, str | None, str, int | None]]:
    """What to ask for, once for each table that interfaces on its segment look into; nothing if there is none."""
    of_ends = dict.fromkeys(tables.get((end.node, end.index)) for end in ends if end.segment == route.segment)
    return [(route.version, route.destination, route.via, table) for table in of_ends]
