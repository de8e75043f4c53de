"""Makes a plan real, and ends it: the one place where what was made in the kernel is released."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ._alter import forget, take_back
from ._background import ended_badly, no_second_error
from ._belongings import Names
from ._bridge import Bridge
from ._broker import Broker, broker
from ._build import make, new_namespaces
from ._describe import as_dot, as_mermaid, as_text
from ._errors import ClosedError, FeatureLacking, KernelError, PlanError, hide_own_frames
from ._host import Host
from ._inside import Inside
from ._interfaces import Surroundings
from ._names import NO_NAMESERVER, hosts_file
from ._namespace import Namespace
from ._pair import PairShape, plan_pair
from ._plan import AUTO, NOTHING, Plan, add_end, add_link, add_node, add_segment, remove
from ._port import PLAIN, Port
from ._reach import answering
from ._reading import load_toml, plan_from
from ._releasing import releasing
from ._settings import is_root
from ._steps import steps
from ._surroundings import LabSurroundings

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._nat import Nat
    from ._router import Router

__all__ = ["Lab", "Pair"]

__tracebackhide__ = hide_own_frames


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
        self._lab.remove(*self.hosts, *([self.bridge] if self.bridge else []))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with no_second_error(kind):
            self.close()

    def __repr__(self) -> str:
        first, second = (f"{host.name} ({host.ip or host.ip6})" for host in self.hosts)
        joint = f" - {self.bridge.name} - " if self.bridge else " - "
        return f"<Pair {first}{joint}{second}>"


class Lab:
    """A network of hosts, bridges and routers that lives and dies together.

    ``with Lab() as lab: lan = lab.bridge("lan"); laptop, server = lab.host("laptop", lan), lab.host("server", lan)``

    What is asked for is planned and checked at once, and made when the lab is first used: all of it together, in as
    few requests as possible. From then on (with ``named``, from the start) each addition is made as it is asked for.
    What a lab has made is gone when its block is left, and also when the process is gone, however it went.

    Args:
        named: Give every namespace a name that ``ip netns`` shows (needs root): that of its host or bridge, with a
            number where it is taken (``beijing-2``). ``host.namespace.name`` tells.
        user: Who runs in its hosts: ``"root"`` for uid 0, there only, or None for the user who runs the test. What
            "root" writes is that user's outside, and what is not that user's it may not touch; a process cannot
            become anybody else, as there is nobody else. For root itself nothing changes.
    """

    def __init__(self, *, named: bool = False, user: str | None = None) -> None:
        self._named = named
        self._as_root = is_root(user)
        self._plan = NOTHING
        self._made = NOTHING
        self._building = threading.RLock()
        self._hosts: dict[str, Host] = {}
        self._bridges: dict[str, Bridge] = {}
        self._closed = False

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, named: bool = False, user: str | None = None) -> Self:
        """A lab described whole, in the words of the methods::

            {
                "bridges": {"lan": {"subnet": "192.168.1.0/24"}, "wan": {"subnet6": False}},
                "hosts": {"laptop": {"bridges": ["lan"]}, "server": {"bridges": ["wan"], "ip": "10.0.1.80"}},
                "routers": {"home": {"bridges": ["lan", "wan"], "nat": "wan"}},
                "links": [{"hosts": ["laptop", "server"], "mtu": 9000}],
            }

        A host with several given addresses lists its ``interfaces``: ``[{"bridge": "lan", "ip": …, "name": …}]``. What
        ``Nat`` and ``forward_port`` take may be said, too: ``"nat": {"outside": "wan", "kind": "full-cone"}``,
        ``"forward_port": [{"port": 80, "to": "laptop"}]``.

        Raises:
            PlanError: Names the place in the description, the value and what was expected.
        """
        lab = cls(named=named, user=user)
        plan = plan_from(data, ipv6=lab._helper().ipv6)
        lab._change(plan, *plan.nodes, *plan.bridges)
        return lab

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str], *, named: bool = False, user: str | None = None) -> Self:
        """A lab described by a TOML file: what :meth:`from_dict` takes, as tables ``[bridges.lan]`` and so on.

        Raises:
            PlanError: As :meth:`from_dict`; or the file is not TOML.
            OSError: It cannot be read.
        """
        return cls.from_dict(load_toml(Path(path)), named=named, user=user)

    def require(self, *features: str) -> None:
        """Go on only if this machine's kernel has these features: ``lab.require("wireguard", "netem")``.

        In a test it is skipped otherwise, or fails: ``netns_lacking`` in the ini file says which. The names are those
        of ``@pytest.mark.netns(requires=[…])``, which decides before the fixtures are made.

        Raises:
            FeatureLacking: One is lacking; the message says which, why and what to type.
            PlanError: One is no feature; the message lists those there are.
        """
        __tracebackhide__ = True
        from ._features import check_names, lacking

        check_names(features)
        reasons = lacking(features)
        if reasons:
            raise FeatureLacking("; ".join(reasons))

    # What there is

    def __str__(self) -> str:
        """Its segments and who is on them, with addresses."""
        return as_text(self._plan)

    def mermaid(self) -> str:
        """It as a flowchart in Mermaid's language, which many forges draw in Markdown."""
        return as_mermaid(self._plan)

    def dot(self) -> str:
        """It as a graph for Graphviz (``dot -Tsvg``)."""
        return as_dot(self._plan)

    def svg(self) -> str:
        """It as a picture in SVG, for a browser: hosts, addresses, MTU; of what is made, the state of interfaces."""
        from ._drawing import as_svg

        made = {name: host for name, host in self._hosts.items() if host._namespace and not host.closed}
        return as_svg(self._plan, {name: host.interfaces for name, host in made.items()})

    @property
    def hosts(self) -> Mapping[str, Host]:
        """Hosts and routers by name, in the order of creation."""
        return MappingProxyType(self._hosts)

    @property
    def bridges(self) -> Mapping[str, Bridge]:
        """Bridges by name."""
        return MappingProxyType(self._bridges)

    def __getitem__(self, name: str) -> Host:
        """The host or router of that name.

        Raises:
            KeyError: There is none; the message lists those there are.
        """
        if name not in self._hosts:
            raise KeyError(f"no host {name!r}; the lab has {', '.join(self._hosts) or 'none'}")
        return self._hosts[name]

    # Additions

    def bridge(
        self,
        name: str,
        subnet: str | None = AUTO,
        subnet6: str | None = AUTO,
        *,
        mtu: int = 1500,
        stp: bool = False,
        vlan_filtering: bool = False,
    ) -> Bridge:
        """An Ethernet segment: a bridge, in a namespace of its own.

        Args:
            name: At most 15 bytes.
            subnet: IPv4 network; None for no IPv4. By default the next free one of 10.0.0.0/24, 10.0.1.0/24 …
            subnet6: IPv6 network; None for no IPv6. By default the next free one of fd00:10::/64, fd00:10:0:1::/64 …
            mtu: Of all interfaces on it, in bytes.
            stp: Run the spanning tree protocol (IEEE 802.1D), in the shortest times that Linux takes. A port passes
                packets 4 s after it is connected, and the lab waits for that.
            vlan_filtering: Keep VLANs apart (IEEE 802.1Q). A port is in those that :meth:`connect` says, else in 1.

        Raises:
            PlanError: It cannot be, or the name is taken.
            KernelError: The kernel lacks VLAN filtering; the message says what to type.
        """
        ipv6 = subnet6 != AUTO or self._helper().ipv6
        options = {"stp": stp, "vlan_filtering": vlan_filtering}
        self._change(add_segment(self._plan, name, subnet, subnet6, mtu=mtu, **options, ipv6=ipv6), name)
        return self._bridges[name]

    def host(
        self,
        name: str = "netns",
        *bridges: Bridge,
        ip: str | None = None,
        ip6: str | None = None,
        mac: str | None = None,
        isolated: bool = False,
        vlan: int | None = None,
        tagged: Sequence[int] = (),
    ) -> Host:
        """A host, with an interface ``eth0``, ``eth1`` … on each of the bridges; its loopback interface is up.

        Args:
            bridges: Bridges of this lab.
            ip, ip6: Its addresses on the first bridge, without prefix length. By default the next free ones.
            mac: Of its first interface.
            isolated, vlan, tagged: Of its port on the first bridge; see :meth:`connect`.

        Raises:
            PlanError: It cannot be, or the name or address is taken.
        """
        first = {"ip": ip, "ip6": ip6, "mac": mac, "told": Port.from_words(isolated, vlan, tagged)}
        return self._node(name, bridges, first, forwards=False)

    def router(
        self,
        name: str,
        *bridges: Bridge,
        ip: str | None = None,
        ip6: str | None = None,
        mac: str | None = None,
        nat: Bridge | Nat | str | None = None,
        isolated: bool = False,
        vlan: int | None = None,
        tagged: Sequence[int] = (),
        routes: bool = True,
    ) -> Router:
        """A host that forwards between its bridges; all hosts get the routes that lead over it.

        Further arguments and errors are those of :meth:`host`. Of several ways the shortest, counted in routers, is
        taken, and of equal ones that over the router that was connected first.

        Args:
            nat: The bridge that is outside, where the router translates addresses as most homes' do; or ``Nat(BRIDGE,
                …)`` for how it does. Needs the program nft.
            routes: False: it gets no routes itself, for whoever tests a program that makes them, such as bird or FRR.
                Hosts take it for their gateway all the same.
        """
        from ._router import Router, as_nat

        wanted = as_nat(nat)
        first = {"ip": ip, "ip6": ip6, "mac": mac, "told": Port.from_words(isolated, vlan, tagged)}
        made = self._node(name, bridges, first, forwards=True, routed=routes, nat=wanted)
        assert isinstance(made, Router)
        return made

    def connect(
        self,
        host: Host,
        bridge: Bridge,
        *,
        ip: str | None = None,
        ip6: str | None = None,
        mac: str | None = None,
        name: str | None = None,
        isolated: bool = False,
        vlan: int | None = None,
        tagged: Sequence[int] = (),
    ) -> None:
        """Give a host one more interface, on a bridge.

        Args:
            ip, ip6: Its addresses there, without prefix length. By default the next free ones.
            mac: Its hardware address. By default one that tells host and interface.
            name: Of the interface. By default the next of ``eth0``, ``eth1`` …
            isolated: Whether the bridge keeps its port and other isolated ones apart.
            vlan: Number of the VLAN that its frames without a tag belong to, on a bridge with ``vlan_filtering``.
            tagged: Numbers of the VLANs that it takes part in with tagged frames (``host.add_vlan("eth0", 20)``).

        Raises:
            PlanError: It cannot be.
        """
        self._check_own(host, bridge)
        told = Port.from_words(isolated, vlan, tagged)
        self._change(
            add_end(self._plan, host.name, bridge.name, ip=ip, ip6=ip6, mac=mac, name=name, told=told), host.name
        )

    def link(
        self, first: Host, second: Host, subnet: str | None = AUTO, subnet6: str | None = AUTO, *, mtu: int = 1500
    ) -> None:
        """Join two hosts directly, by a veth pair without a bridge; each gets one more interface.

        Args:
            subnet, subnet6, mtu: As with :meth:`bridge`.

        Raises:
            PlanError: It cannot be.
        """
        self._check_own(first, second)
        ipv6 = subnet6 != AUTO or self._helper().ipv6
        self._change(
            add_link(self._plan, first.name, second.name, subnet, subnet6, mtu=mtu, ipv6=ipv6), first.name, second.name
        )

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
        if "subnet6" not in keywords and not self._helper().ipv6:
            keywords["subnet6"] = None  # a kernel without IPv6
        shape = PairShape.from_keywords(keywords)
        self._change(
            plan_pair(shape, self._plan), *shape.hosts, *([shape.bridge] if isinstance(shape.bridge, str) else [])
        )
        self.build()
        first, second = shape.hosts
        bridge = self._bridges[shape.bridge] if isinstance(shape.bridge, str) else None
        return Pair(self, (self._hosts[first], self._hosts[second]), bridge)

    def remove(self, *places: Inside) -> None:
        """End hosts and bridges, with what runs in them and the interfaces that lead to them.

        Routes that led over them are worked out anew. Those that are closed already are passed over.

        Raises:
            PlanError: One belongs to another lab.
        """
        open_places = [place for place in places if not place.closed]
        self._check_own(*open_places)
        if not open_places:
            return
        names = {place.name for place in open_places}
        self._show(remove(self._plan, names), names)
        try:
            if self._made is not NOTHING:
                self.build()
        finally:
            self._close(open_places)

    def _node(
        self,
        name: str,
        bridges: tuple[Bridge, ...],
        first: dict[str, Any],
        *,
        forwards: bool,
        routed: bool = True,
        nat: Nat | None = None,
    ) -> Host:
        self._check_own(*bridges)
        plan = add_node(self._plan, name, forwards=forwards, routed=routed)
        for number, bridge in enumerate(bridges):
            plan = add_end(plan, name, bridge.name, **(first if number == 0 else {}))
        if not bridges and (first != dict.fromkeys(first) | {"told": PLAIN}):
            raise PlanError(f"{name}: ip, ip6, mac, isolated, vlan and tagged need a bridge: host({name!r}, BRIDGE, …)")
        if nat is not None:
            from ._nat import set_nat

            plan = set_nat(plan, name, nat)
        self._change(plan, name)
        return self._hosts[name]

    def _check_own(self, *places: object) -> None:
        for place in places:
            own: Mapping[str, Inside] = self._bridges if isinstance(place, Bridge) else self._hosts
            if not isinstance(place, Inside):
                raise PlanError(f"{place!r}: expected a bridge or host of this lab, such as lab.bridge('lan') gives")
            if own.get(place.name) is not place:
                raise PlanError(f"{place!r} belongs to another lab")

    def _helper(self) -> Broker:
        return broker(as_root=self._as_root)

    # Making and ending

    def _change(self, plan: Plan, *touched: str, asleep: Collection[tuple[str, str]] = ()) -> None:
        """Take over a plan in which what is named is new; make it real at once if the lab is real already."""
        if self._closed:
            raise ClosedError("this lab is closed")
        self._helper()  # where namespaces cannot be had, say so now
        if any(name in plan.nodes and plan.nodes[name].nat for name in touched):
            from ._nftables import find_nft

            find_nft()  # so with the program for it
        before = self._plan
        if plan.features != before.features:
            _check_features(plan.features - before.features)
        self._show(plan, touched)
        if self._made is not NOTHING or self._named:  # names are for others to see
            try:
                self.build(asleep)
            except BaseException:
                self._show(before, touched)
                raise

    def _show(self, plan: Plan, touched: Iterable[str]) -> None:
        """Have the hosts and bridges that are named be those of a plan."""
        self._plan = plan
        for name in touched:
            if name in plan.nodes:
                host = self._hosts.get(name) or self._new_host(name, forwards=plan.nodes[name].forwards)
                host._given = tuple(address for end in plan.of_node[name] for address in end.addresses)
            elif name in plan.segments:
                self._bridges.setdefault(name, Bridge(name, owner=self))
            else:
                self._hosts.pop(name, None)
                self._bridges.pop(name, None)

    def _new_host(self, name: str, *, forwards: bool) -> Host:
        if forwards:
            from ._router import Router

            self._hosts[name] = Router(
                name, self, self._hosts, lambda: self._plan, lambda plan: self._change(plan, name)
            )
        else:
            self._hosts[name] = Host(name, owner=self, network=self._hosts)
        return self._hosts[name]

    def build(self, _asleep: Collection[tuple[str, str]] = ()) -> None:
        """Make what is planned; happens by itself when the lab is first used.

        Returns when the first packet gets through everywhere.

        Raises:
            NamespacesUnavailable: The machine does not allow it.
            KernelError: The kernel refused a request; nothing of what was new in the plan is left.
        """
        with self._building:
            if self._closed:
                raise ClosedError("this lab is closed")
            if self._made is not self._plan:
                self._build(_asleep)

    def _build(self, asleep: Collection[tuple[str, str]] = ()) -> None:
        plan = self._plan
        todo = steps(self._made, plan, asleep)
        places: dict[str, Inside] = {**self._hosts, **self._bridges}
        with contextlib.ExitStack() as undo:
            made = new_namespaces(todo, undo, named=self._named, as_root=self._as_root)
            there = {name: place.namespace for name, place in places.items() if name not in made}
            if todo.changes:
                undo.callback(take_back, steps(plan, self._made, asleep), there)
            make(todo, {**there, **made})
            undo.pop_all()
        for name, namespace in made.items():
            places[name]._namespace = namespace
        self._made = plan
        self.show_names()

    def reset(self) -> None:
        """Have it be as new, where several tests share it: what its hosts have learned from packets is forgotten.

        Neighbours (ARP and NDP), what bridges have learned, tracked connections and mappings of NAT, path MTUs of IPv4;
        interfaces that were switched off are on; packets are counted from now on. What was asked for stays (addresses,
        routes, further hosts), and so does what runs.

        Raises:
            KernelError: The kernel refused.
        """
        if self._made is not NOTHING:
            from ._resetting import reset

            with self._building:
                reset(self._hosts.values(), self._bridges.values())

    # What hosts ask of their lab

    def making(self) -> contextlib.AbstractContextManager[object]:
        """As long as it lasts, nobody else adds or removes anything."""
        return self._building

    def names(self, place: Inside) -> Names:
        """What programs in a host or bridge find in /etc/hosts and /etc/resolv.conf."""
        more = {name: host._added_plain() for name, host in self._hosts.items() if host._added}
        resolver = place._resolver if isinstance(place, Host) else NO_NAMESERVER
        return Names(hosts_file(self._plan, place.name, more), resolver)

    def plan(self) -> Plan:
        """What the lab is to be."""
        return self._plan

    def alter(self, node: str, change: Callable[[Plan], Plan], *, done: bool = False) -> None:
        """Change a host while the lab runs; ``done`` says that the kernel has been asked already.

        Raises:
            PlanError: It cannot be.
            KernelError: The kernel refused; the lab is as before.
        """
        with self._building:
            plan = change(self._plan)
            if self._made is NOTHING:
                self._change(plan, node)
            elif done:
                forget(steps(self._made, plan).changes, {name: host.namespace for name, host in self._hosts.items()})
                self._made = plan
                self._show(plan, [node])
                self.show_names()
            else:
                asleep = {(node, name) for name, state in self._hosts[node].interfaces.items() if not state.up}
                self._change(plan, node, asleep=asleep)

    def show_names(self) -> None:
        """Have programs that run find what has changed."""
        with self._building:
            for place in (*self._hosts.values(), *self._bridges.values()):
                if place._belongings is not None:
                    place._belongings.show(self.names(place))

    def answering(self, place: Inside, address: str) -> str | None:
        """The host that a packet of a host gets to, where several have the address."""
        return answering(self._plan, place.name, address)

    def surroundings(self, place: Inside, interface: str) -> Surroundings | None:
        """What is known of an interface of a host or bridge; None if the lab has not made it."""
        if isinstance(place, Bridge):
            ends = (end for end in self._made.on_segment.get(place.name, ()) if end.port == interface)
        else:
            ends = (end for end in self._made.of_node.get(place.name, ()) if end.name == interface)
        end = next(ends, None)
        return None if end is None else LabSurroundings(self, end, is_port=isinstance(place, Bridge))

    def close(self) -> None:
        """End everything; may be called twice.

        Raises:
            ChildDied: Something in the background had ended with an error of which nobody has been told.
            ExceptionGroup: Several steps failed; everything else is released all the same.
        """
        self._closed = True
        self._close([*self._hosts.values(), *self._bridges.values()])

    def _close(self, places: Sequence[Inside]) -> None:
        open_places = [place for place in places if not place.closed]
        if not open_places:
            return
        with releasing("the lab") as release:
            bad_ends: list[str] = []
            for place in open_places:
                release(lambda place=place: bad_ends.extend(place._bad_ends()))
            # Processes first: they would keep their namespaces alive.
            for held, inodes in _by_helper([place._namespace for place in open_places if place._namespace]):
                release(held.end_processes, "net", inodes)
            for place in open_places:
                release(place._release)
            if bad_ends:
                raise ended_badly(bad_ends)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with no_second_error(kind):
            self.close()

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<Lab {', '.join(self._hosts) or 'empty'}{state}>"


def _check_features(features: Iterable[str]) -> None:
    from ._features import lacking

    reasons = lacking(sorted(features))
    if reasons:
        raise KernelError(errno.EOPNOTSUPP, "; ".join(reasons))


def _by_helper(namespaces: list[Namespace]) -> list[tuple[Broker, list[int]]]:
    found: dict[int, tuple[Broker, list[int]]] = {}
    for namespace in namespaces:
        found.setdefault(id(namespace.broker), (namespace.broker, []))[1].append(namespace.id)
    return list(found.values())
