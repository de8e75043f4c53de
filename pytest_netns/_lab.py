"""Makes a plan real, and ends it: the one place where what was made in the kernel is released."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import _netlink
from ._broker import Broker, broker
from ._errors import ClosedError
from ._host import Bridge, Host, Inside
from ._namespace import Namespace
from ._plan import End, PairShape, Plan, plan_host, plan_pair

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Lab", "Pair"]


class Pair:
    """Two hosts and what joins them; unpacks to the two: ``beijing, shanghai = pair``."""

    def __init__(self, lab: Lab, hosts: tuple[Host, Host], bridge: Bridge | None) -> None:
        self._lab = lab
        self.hosts = hosts
        #: The bridge between them; None with ``bridge=False``.
        self.bridge = bridge

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts)

    def __getitem__(self, name: str) -> Host:
        """The host of that name.

        Raises:
            KeyError: Neither has it.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(f"no host {name!r}; the pair is {' and '.join(host.name for host in self.hosts)}")

    def close(self) -> None:
        """End it before its lab ends; may be called twice."""
        self._lab._close([*self.hosts, *([self.bridge] if self.bridge else [])])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        first, second = (f"{host.name} ({host.ip or host.ip6})" for host in self.hosts)
        joint = f" - {self.bridge.name} - " if self.bridge else " - "
        return f"<Pair {first}{joint}{second}>"


class Lab:
    """Networks that live and die together; the plain Python form of the fixtures.

    ``with Lab() as lab: beijing, shanghai = lab.pair()``. What a lab has made is gone when the block is left,
    and also when the process is gone, however it went.

    Args:
        named: Give every namespace a name that ``ip netns`` shows (needs root): that of its host or bridge, with a
            number where it is taken (``beijing-2``). ``host.namespace.name`` tells.
    """

    def __init__(self, *, named: bool = False) -> None:
        self._named = named
        self._open: list[Inside] = []
        self._closed = False

    def host(self, name: str = "netns") -> Host:
        """A host by itself: only a loopback interface, up."""
        hosts, _ = self._build(plan_host(name))
        return hosts[name]

    def pair(self, **keywords: Any) -> Pair:
        """Two hosts joined by a bridge; the keywords are those of the fixture ``netns_pair``.

        Args:
            hosts: Their names, ``("beijing", "shanghai")``.
            bridge: The bridge's name, ``"br0"``; False for a veth pair straight between them.
            interfaces: The name of their interface, ``"eth0"``, or one for each.
            subnet: IPv4 network, ``"10.0.0.0/24"``; None for no IPv4.
            subnet6: IPv6 network, ``"fd00:10::/64"``; None for no IPv6.
            mtu: In bytes, 1500.

        Returns:
            The pair; its first packet gets through.

        Raises:
            PlanError: What was asked for cannot be; nothing has been made.
            NamespacesUnavailable: The machine does not allow it.
        """
        shape = PairShape.from_keywords(keywords)
        if not broker().ipv6 and "subnet6" not in keywords:
            shape = replace(shape, subnet6=None)  # a kernel without IPv6
        plan = plan_pair(shape)
        hosts, bridges = self._build(plan)
        first, second = plan.hosts
        return Pair(self, (hosts[first], hosts[second]), next(iter(bridges.values()), None))

    def close(self) -> None:
        """End everything; may be called twice."""
        self._closed = True
        self._close(list(self._open))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self, plan: Plan) -> tuple[dict[str, Host], dict[str, Bridge]]:
        if self._closed:
            raise ClosedError("this lab is closed")
        names = [*plan.hosts, *plan.bridges]
        with contextlib.ExitStack() as undo:
            namespaces = self._namespaces(names, undo)
            addresses = _addresses(plan)
            hosts = {name: Host(name, namespaces[name], tuple(addresses.get(name, ()))) for name in plan.hosts}
            bridges = {name: Bridge(name, namespaces[name]) for name in plan.bridges}
            _configure(plan, namespaces)
            undo.pop_all()
        self._open += [*hosts.values(), *bridges.values()]
        for host in hosts.values():
            host._network = hosts
        return hosts, bridges

    def _namespaces(self, names: list[str], undo: contextlib.ExitStack) -> dict[str, Namespace]:
        if not self._named:
            made = Namespace.many(len(names))
            for namespace in made:
                undo.callback(namespace.close)
            return dict(zip(names, made, strict=True))
        named: dict[str, Namespace] = {}
        for name in names:
            named[name] = _named(name)
            undo.callback(named[name].close)
        return named

    def _close(self, places: list[Inside]) -> None:
        open_places = [place for place in places if not place.closed]
        if not open_places:
            return
        # One stack, so that a failure to release one thing does not keep the others.
        with contextlib.ExitStack() as release:
            for place in open_places:
                release.callback(place._release)
            # Processes first: they would keep their namespaces alive.
            for held, inodes in _by_helper(open_places):
                held.end_processes("net", inodes)
        self._open = [place for place in self._open if not place.closed]


def _named(name: str) -> Namespace:
    """Two networks at a time may have a beijing, in one session or in several: the second becomes beijing-2."""
    label = name
    for number in itertools.count(2):
        with contextlib.suppress(FileExistsError):
            return Namespace(label)
        label = f"{name[:50]}-{number}"
    raise AssertionError("there is always a next number")


def _by_helper(places: list[Inside]) -> list[tuple[Broker, list[int]]]:
    found: dict[int, tuple[Broker, list[int]]] = {}
    for place in places:
        namespace = place.namespace
        found.setdefault(id(namespace.broker), (namespace.broker, []))[1].append(namespace.id)
    return list(found.values())


def _addresses(plan: Plan) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for cable in plan.cables:
        for end in cable.ends:
            found.setdefault(end.place, []).extend(end.addresses)
    return found


def _configure(plan: Plan, namespaces: dict[str, Namespace]) -> None:
    """Ask the kernel for all of it: one send for a namespace and round."""
    _make_bridges_and_cables(plan, namespaces)
    near: dict[str, list[End]] = {name: [] for name in namespaces}
    far: dict[str, list[End]] = {name: [] for name in namespaces}
    for cable in plan.cables:
        near[cable.near.place].append(cable.near)
        far[cable.far.place].append(cable.far)
    answers: dict[str, list[bytes]] = {}
    for name in plan.hosts:
        answers[name] = namespaces[name].netlink.batch(_settle(near[name], far[name]))
    for name in plan.bridges:
        # After the hosts: a port has a carrier only once the far end is up.
        indexes = [*(end.index for end in near[name]), plan.bridge_index]
        answers[name] = namespaces[name].netlink.batch([_netlink.get_link(index) for index in indexes])
    for name, namespace in namespaces.items():
        ends = near[name] + far[name]
        namespace.netlink.wait_ready([end.index for end in ends], answers[name], _six(ends))


def _make_bridges_and_cables(plan: Plan, namespaces: dict[str, Namespace]) -> None:
    requests: dict[str, list[_netlink.Request]] = {name: [] for name in namespaces}
    for name in plan.bridges:
        requests[name].append(_netlink.add_bridge(name, plan.bridge_index))
    for cable in plan.cables:
        fd = namespaces[cable.far.place].fileno()
        requests[cable.near.place].append(_netlink.add_veth(_end(cable.near), _end(cable.far), cable.mtu, fd))
    for name, batch in requests.items():
        if batch:
            namespaces[name].netlink.batch(batch)


def _end(end: End) -> _netlink.End:
    return _netlink.End(end.name, end.index, end.mac, end.master)


def _settle(near: list[End], far: list[End]) -> list[_netlink.Request]:
    """A host's own part: loopback up, interfaces up where they are not yet, read, addressed."""
    ends = near + far
    return [
        _netlink.set_link(1, up=True, what="set lo up"),
        *(_netlink.set_link(end.index, up=True, what=f"set {end.name} up") for end in far),
        # Before the addresses: an IPv6 address becomes usable only on an interface that is ready.
        *(_netlink.get_link(end.index) for end in ends),
        *(
            _netlink.add_address(end.index, plain, int(prefix))
            for end in ends
            for plain, prefix in (address.split("/") for address in end.addresses)
        ),
    ]


def _six(ends: list[End]) -> list[tuple[int, bytes]]:
    return [
        (end.index, socket.inet_pton(socket.AF_INET6, address.split("/")[0]))
        for end in ends
        for address in end.addresses
        if ":" in address
    ]
