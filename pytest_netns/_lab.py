"""Labs in the words of their users: what is added, and how a lab describes itself; its life is in :mod:`._life`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ._bridge import Bridge
from ._describe import Found, as_dot, as_mermaid, as_text
from ._errors import FeatureLacking, PlanError, hide_own_frames
from ._host import Host
from ._life import Life
from ._pair import PairShape, plan_pair
from ._plan import AUTO, add_end, add_link, add_node, add_segment
from ._port import PLAIN, Port
from ._releasing import no_second_error
from ._turns import in_turn

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


class Lab(Life):
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
        from ._reading import plan_from  # most labs are written in Python

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
        from ._reading import load_toml

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
        """Its segments and who is on them, with addresses; of what is made, which interfaces pass nothing, and why."""
        return as_text(self._plan, self._found())

    def mermaid(self) -> str:
        """It as a flowchart in Mermaid's language, which many forges draw in Markdown."""
        return as_mermaid(self._plan, self._found())

    def dot(self) -> str:
        """It as a graph for Graphviz (``dot -Tsvg``)."""
        return as_dot(self._plan, self._found())

    def svg(self) -> str:
        """It as a picture in SVG, for a browser: hosts, addresses, MTU; of what is made, the state of interfaces."""
        from ._drawing import as_svg

        made = {name: host for name, host in [*self._hosts.items()] if host._namespace and not host.closed}
        return as_svg(self._plan, {name: host.interfaces for name, host in made.items()}, self._found())

    def _found(self) -> Found:
        from ._conditions import conditions

        places = [*self._hosts.items(), *self._bridges.items()]
        there = {name: place._namespace for name, place in places if place._namespace and not place.closed}
        return conditions(self._made, there)

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
            hint = f" (that is a bridge: lab.bridges[{name!r}])" if name in self._bridges else ""
            raise KeyError(f"no host {name!r}{hint}; the lab has {', '.join(self._hosts) or 'none'}")
        return self._hosts[name]

    # Additions

    @in_turn
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

    @in_turn
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
            ip, ip6: Its addresses on the first bridge, without prefix length. By default, as with None, the next free
                ones; a host has none on a bridge that has no such network.
            mac: Of its first interface.
            isolated, vlan, tagged: Of its port on the first bridge; see :meth:`connect`.

        Raises:
            PlanError: It cannot be, or the name or address is taken.
        """
        first = {"ip": ip, "ip6": ip6, "mac": mac, "told": Port.from_words(isolated, vlan, tagged)}
        return self._node(name, bridges, first, forwards=False)

    @in_turn
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
                Hosts take it for their gateway all the same. It may be between networks that overlap, which VRFs tell
                apart.
        """
        from ._router import Router, as_nat

        if isinstance(nat, Bridge):
            self.check_own(nat)
        wanted = as_nat(nat)
        first = {"ip": ip, "ip6": ip6, "mac": mac, "told": Port.from_words(isolated, vlan, tagged)}
        made = self._node(name, bridges, first, forwards=True, routed=routes, nat=wanted)
        assert isinstance(made, Router)
        return made

    @in_turn
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
        self.check_own(host, bridge)
        if isinstance(host, Bridge) or not isinstance(bridge, Bridge):
            raise PlanError(f"connect({host.name!r}, {bridge.name!r}): expected a host and a bridge, in this order")
        told = Port.from_words(isolated, vlan, tagged)
        self._change(
            add_end(self._plan, host.name, bridge.name, ip=ip, ip6=ip6, mac=mac, name=name, told=told), host.name
        )

    @in_turn
    def link(
        self, first: Host, second: Host, subnet: str | None = AUTO, subnet6: str | None = AUTO, *, mtu: int = 1500
    ) -> None:
        """Join two hosts directly, by a veth pair without a bridge; each gets one more interface.

        Args:
            subnet, subnet6, mtu: As with :meth:`bridge`.

        Raises:
            PlanError: It cannot be.
        """
        self.check_own(first, second)
        for place in (first, second):
            if isinstance(place, Bridge):
                raise PlanError(f"link: {place.name} is a bridge; a router joins bridges: router(NAME, BRIDGE, BRIDGE)")
        ipv6 = subnet6 != AUTO or self._helper().ipv6
        self._change(
            add_link(self._plan, first.name, second.name, subnet, subnet6, mtu=mtu, ipv6=ipv6), first.name, second.name
        )

    @in_turn
    def pair(self, /, **keywords: Any) -> Pair:
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
        self.check_own(*bridges)
        for place in bridges:
            if not isinstance(place, Bridge):
                raise PlanError(
                    f"{name}: {place.name} is a host; expected bridges: link(…) joins two hosts without one"
                )
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

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<Lab {', '.join(self._hosts) or 'empty'}{state}>"
