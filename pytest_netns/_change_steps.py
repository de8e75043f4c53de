"""What to ask the kernel for where an interface that stays is another in the next plan."""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from . import _requests
from ._plan import BRIDGE_INDEX, End, Plan

if TYPE_CHECKING:
    from ._steps import Steps

__all__ = ["Alterations", "Move", "add_changes"]


class Move(NamedTuple):
    """A port that goes from the namespace of one bridge into that of another."""

    source: str
    target: str
    #: Its index.
    port: int
    name: str
    new_name: str


@dataclass
class Alterations:
    """Requests by host or bridge, in the order in which they are to be sent; before anything is settled."""

    #: Names of interfaces that lose an IPv4 address: without a setting the others of its network would go, too.
    losing: dict[str, set[str]] = field(default_factory=dict)
    #: Routes and addresses that go; that they have gone already is no failure.
    leave: dict[str, list[_requests.Request]] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)
    adjust: dict[str, list[_requests.Request]] = field(default_factory=dict)
    #: At the end, in hosts: neighbours, by interface and address, where the address is somebody's anew.
    forget: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    #: Interfaces, by index, that see other neighbours now.
    strangers: dict[str, list[int]] = field(default_factory=dict)
    #: Hosts of which something has changed.
    nodes: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.nodes or self.leave or self.forget)


def add_changes(todo: Steps, old: Plan, new: Plan, asleep: Collection[tuple[str, str]]) -> None:
    """Add what makes the interfaces that stay be those of the new plan.

    Args:
        asleep: Interfaces (host, name) that are switched off: what becomes of them is not waited for.
    """
    were = {(end.node, end.name): end for end in old.ends}
    changes = todo.changes
    for end in new.ends:
        was = were.get((end.node, end.name))
        if was is None:
            _add_forgetting(todo, old, end, end.addresses)
        if was is None or was is end:
            continue
        changes.nodes.add(end.node)
        if was.segment != end.segment:
            _add_move(todo, new, was, end)
        mtu = _mtu(new, end)
        if mtu != _mtu(old, was):
            _adjust(todo, end.node, _requests.set_mtu(end.index, end.name, mtu))
            if end.port:
                _adjust(todo, end.segment, _requests.set_mtu(end.port_index, end.port, mtu))
        _add_addresses(todo, new, was, end, awake=(end.node, end.name) not in asleep)
    changes.nodes |= {key[0] for key in {*old.fixed, *new.fixed} if old.fixed.get(key, "") != new.fixed.get(key, "")}


def _mtu(plan: Plan, end: End) -> int:
    return end.mtu or plan.segments[end.segment].mtu


def _adjust(todo: Steps, place: str, request: _requests.Request) -> None:
    todo.changes.adjust.setdefault(place, []).append(request)


def _add_move(todo: Steps, plan: Plan, was: End, end: End) -> None:
    if plan.segments[end.segment].stp:
        todo.forwarding.setdefault(end.segment, []).append(end.port_index)
    todo.changes.moves.append(Move(was.segment, end.segment, end.port_index, was.port, end.port))
    _adjust(todo, end.segment, _requests.plug_in(end.port_index, end.port, BRIDGE_INDEX))
    todo.changes.strangers.setdefault(end.node, []).append(end.index)
    for requests, place, index in (
        (todo.settle, end.node, end.index),
        (todo.read, end.segment, end.port_index),
    ):
        requests.setdefault(place, []).append(_requests.get_link(index))
        todo.ready.setdefault(place, ([], []))[0].append(index)


def _add_addresses(todo: Steps, plan: Plan, was: End, end: End, *, awake: bool) -> None:
    for text in was.addresses:
        if text not in end.addresses:
            address, _, length = text.partition("/")
            request = _requests.delete_address(end.index, address, int(length))
            todo.changes.leave.setdefault(end.node, []).append(request)
            if ":" not in address:
                todo.changes.losing.setdefault(end.node, set()).add(end.name)
    for text in end.addresses:
        address, _, length = text.partition("/")
        if text not in was.addresses:
            todo.settle.setdefault(end.node, []).append(_requests.add_address(end.index, address, int(length)))
            if ":" in address and awake:
                packed = socket.inet_pton(socket.AF_INET6, address)
                todo.ready.setdefault(end.node, ([], []))[1].append((end.index, packed))
    anew = [text for text in end.addresses if text not in was.addresses or was.segment != end.segment]
    _add_forgetting(todo, plan, end, anew)


def _add_forgetting(todo: Steps, plan: Plan, end: End, addresses: Collection[str]) -> None:
    """Others on its segment may know somebody else by these addresses, or have asked for them in vain."""
    for other in plan.on_segment.get(end.segment, ()) if addresses else ():
        if other.node != end.node:
            neighbours = ((other.index, text.partition("/")[0]) for text in addresses)
            todo.changes.forget.setdefault(other.node, []).extend(neighbours)
