"""Network address translation as data, in the words of RFC 4787: what a router is asked for, checked; no kernel."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ._errors import PlanError, hide_own_frames
from ._plan import End, Plan
from ._reach import all_routed, way

__all__ = ["DEPENDS", "Nat", "PortForward", "address_behind", "nat_from", "outside_ends", "set_forward", "set_nat"]

__tracebackhide__ = hide_own_frames

_NOT, _ADDRESS, _BOTH = "endpoint-independent", "address-dependent", "address-and-port-dependent"
#: What a mapping or a filter may depend on: nothing, the remote address, the remote address and port.
DEPENDS = (_NOT, _ADDRESS, _BOTH)
#: By name: mapping, filtering, hairpin, preserve_ports.
_KINDS = {
    "home": (_NOT, _BOTH, True, True),
    "full-cone": (_NOT, _NOT, True, True),
    "symmetric": (_BOTH, _BOTH, False, False),
    "carrier-grade": (_NOT, _NOT, True, False),
}


class _Named(Protocol):
    name: str


@dataclass(frozen=True, init=False)
class Nat:
    """How a router translates IPv4 addresses, in the words of RFC 4787; what it does for UDP it does for TCP.

    ``Nat(wan)`` is what most homes have, ``Nat(wan, "symmetric")`` another kind, and
    ``Nat(wan, filtering="address-dependent")`` what is called a restricted cone.

    =============== ==================== ========================== ======= ==============
    kind            mapping              filtering                  hairpin preserve_ports
    =============== ==================== ========================== ======= ==============
    "home"          endpoint-independent address-and-port-dependent yes     yes
    "full-cone"     endpoint-independent endpoint-independent       yes     yes
    "symmetric"     address- and port-dependent, both               no      no
    "carrier-grade" endpoint-independent endpoint-independent       yes     no (RFC 6888)
    =============== ==================== ========================== ======= ==============

    IPv6 is not translated: it is routed, and outside may only answer. Nor may outside open connections to ports of the
    router itself; it answers echoes. A mapping is forgotten 300 s (RFC 4787, REQ-5) after its host last sent by a
    connection that it opened itself; answers to others, who opened theirs, do not keep it.

    Args:
        outside: The bridge (or its name) that is outside; the router's other bridges are inside, and unknown outside.
        kind: What holds for all that is not given.
        mapping: Which remote side a socket's port outside depends on: none, ``"endpoint-independent"``; on its address,
            ``"address-dependent"``; on both, ``"address-and-port-dependent"``.
        filtering: Who may send to a mapped port: anyone; addresses that it has sent to; only such addresses and ports.
        hairpin: Hosts inside reach ports of each other by the outside address: forwarded ones and, with
            endpoint-independent filtering, mapped ones. (Other filters let in no one whom the port has not sent to.)
        preserve_ports: The port outside is that inside, where no other host has it; else a random one above 1023.

    Raises:
        PlanError: There is no such kind or behaviour, or the two do not go together.
    """

    outside: str
    mapping: str
    filtering: str
    hairpin: bool
    preserve_ports: bool

    def __init__(
        self,
        outside: str | _Named,
        kind: str = "home",
        *,
        mapping: str | None = None,
        filtering: str | None = None,
        hairpin: bool | None = None,
        preserve_ports: bool | None = None,
    ) -> None:
        name = getattr(outside, "name", outside)
        if not isinstance(name, str) or not name:
            raise PlanError(f"nat: outside {outside!r}: expected one of the router's bridges, or its name")
        _check("kind", kind, tuple(_KINDS))
        of_kind = _KINDS[kind]
        if mapping not in (None, _NOT) and preserve_ports is None:
            preserve_ports = False
        values = dict(zip(("mapping", "filtering", "hairpin", "preserve_ports"), of_kind, strict=True))
        given = {"mapping": mapping, "filtering": filtering, "hairpin": hairpin, "preserve_ports": preserve_ports}
        values.update((word, value) for word, value in given.items() if value is not None)
        for word in ("mapping", "filtering"):
            _check(word, values[word], DEPENDS)
        for word in ("hairpin", "preserve_ports"):
            if not isinstance(values[word], bool):
                raise PlanError(f"nat: {word} {values[word]!r}: expected True or False")
        if values["preserve_ports"] and values["mapping"] != _NOT:
            raise PlanError(
                f"nat: preserve_ports does not go with mapping {values['mapping']!r}: "
                f"a port that is kept is the same for every remote side, which is {_NOT!r}"
            )
        for word, value in {"outside": name, **values}.items():
            object.__setattr__(self, word, value)

    @property
    def kind(self) -> str | None:
        """The name of what it does; None if it is none of those that have one."""
        own = (self.mapping, self.filtering, self.hairpin, self.preserve_ports)
        return next((kind for kind, values in _KINDS.items() if values == own), None)

    def __str__(self) -> str:
        what = self.kind or f"mapping {self.mapping}, filtering {self.filtering}"
        if self.kind is None:
            what += f"{', hairpin' * self.hairpin}{', ports preserved' * self.preserve_ports}"
        return f"NAT to {self.outside}: {what}"


@dataclass(frozen=True)
class PortForward:
    """A port of the outside address that leads to a host: ``to`` is its name, ``to_port`` its port."""

    port: int
    to: str
    to_port: int
    protocol: str = "tcp"

    def __str__(self) -> str:
        return f"port {self.port}/{self.protocol} to {self.to}:{self.to_port}"


def _check(word: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        close = difflib.get_close_matches(str(value), known, 1, 0.5)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise PlanError(f"nat: {word} {value!r}{hint}; there are {', '.join(map(repr, known))}")


# Growing a plan


def set_nat(plan: Plan, router: str, nat: Nat | None) -> Plan:
    """The plan with a router that translates so, or not at all.

    Raises:
        PlanError: It is no router, or not on the bridge that is to be outside.
    """
    node = plan.nodes[router]
    if not node.forwards:
        raise PlanError(f"{router} is a host; nat is for routers")
    if nat is not None:
        on = list(dict.fromkeys(end.segment for end in plan.of_node[router]))
        if nat.outside not in on and nat.outside in _KINDS:
            raise PlanError(f"nat: {nat.outside!r} is a kind; expected the bridge, too: Nat(BRIDGE, {nat.outside!r})")
        if nat.outside not in on:
            raise PlanError(f"nat: outside {nat.outside!r}: {router} is not on it; it is on {', '.join(on) or 'none'}")
    elif node.port_forwards:
        node = node._replace(port_forwards=())
    return replace(plan, nodes={**plan.nodes, router: node._replace(nat=nat)})


def set_forward(
    plan: Plan, router: str, port: object, to: str | None, *, to_port: object = None, protocol: object = "tcp"
) -> Plan:
    """The plan with a port of a router that leads to a host's; with None, to none.

    Raises:
        PlanError: Names what is wrong with it.
    """
    node = plan.nodes[router]
    if node.nat is None:
        raise PlanError(f"{router} has no NAT, so no port to forward: router({router!r}, …, nat=OUTSIDE)")
    if protocol not in ("tcp", "udp"):
        raise PlanError(f"forward_port: protocol {protocol!r}: expected 'tcp' or 'udp'")
    for word, value in (("port", port), ("to_port", to_port)):
        if (word, value) != ("to_port", None):
            _check_port(word, value)
    others = tuple(each for each in node.port_forwards if (each.port, each.protocol) != (port, protocol))
    if to is not None:
        if to not in plan.nodes:
            raise PlanError(f"forward_port: there is no host {to!r}; there are {', '.join(plan.nodes)}")
        on = {end.segment for end in plan.of_node[to] if end.addresses}
        if to != router and on == {node.nat.outside}:
            raise PlanError(
                f"forward_port: {to} is only on {node.nat.outside}, outside of {router}: expected a host inside, which "
                "outside cannot reach otherwise"
            )
        if not address_behind(plan, router, to, 4) and not address_behind(plan, router, to, 6):
            raise PlanError(f"forward_port: {_why_not(plan, router, to)}")
        assert isinstance(port, int)
        assert isinstance(protocol, str)
        others += (PortForward(port, to, port if to_port is None else int(str(to_port)), protocol),)
    elif len(others) == len(node.port_forwards):
        raise PlanError(f"forward_port: port {port}/{protocol} of {router} is not forwarded")
    return replace(plan, nodes={**plan.nodes, router: node._replace(port_forwards=others)})


def _check_port(word: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise PlanError(f"forward_port: {word} {value!r}: expected a whole number from 1 to 65535")


def outside_ends(plan: Plan, router: str) -> list[End]:
    """The router's interfaces that are outside."""
    nat = plan.nodes[router].nat
    return [end for end in plan.of_node[router] if nat is not None and end.segment == nat.outside]


def address_behind(plan: Plan, router: str, host: str, version: int) -> str | None:
    """Where a router sends what is for a host; None if nothing gets there.

    Its address on a bridge inside, or else the first one that it is reached at; itself it reaches by IPv6 at its
    address outside.
    """
    nat = plan.nodes[router].nat
    inside = {end.segment for end in plan.of_node[router] if nat is None or end.segment != nat.outside}
    outside_first = host == router and version == 6
    ends = sorted(plan.of_node.get(host, ()), key=lambda end: (end.segment not in inside) != outside_first)
    addresses = (text.split("/")[0] for end in ends for text in end.addresses if (":" in text) == (version == 6))
    return next((address for address in addresses if _gets_to(plan, router, host, address)), None)


def _gets_to(plan: Plan, router: str, host: str, address: str) -> bool:
    """Whether what a router forwards gets to a host at an address: not from outside through another that translates.

    That one lets in by IPv6 what it forwards itself.
    """
    passed = way(all_routed(plan), router, address)
    if not passed or passed[-1][0] != host:
        return False
    by = [(plan.nodes[name], segment) for name, segment in passed[1:-1]]
    guards = [node for node, segment in by if node.nat is not None and node.nat.outside == segment]
    return all(":" in address and any(each.to == host for each in guard.port_forwards) for guard in guards)


def _why_not(plan: Plan, router: str, host: str) -> str:
    addresses = [text.split("/")[0] for end in plan.of_node[host] for text in end.addresses]
    if not addresses:
        return f"{host} has no address to forward to"
    return (
        f"{router} has no way to {host} ({', '.join(addresses)}): expected a host on one of its bridges, or behind "
        "routers that lead there; who is behind another router that translates is reached by a forward to that one"
    )


def nat_from(words: Any) -> Nat:
    """What a description says: the name of a bridge, or a table with the arguments of :class:`Nat`.

    Raises:
        PlanError: Names what is wrong with it.
    """
    if not isinstance(words, Mapping):
        return Nat(words)
    known = ("outside", "kind", "mapping", "filtering", "hairpin", "preserve_ports")
    for word in words:
        if word not in known:
            raise PlanError(f"nat: unknown word {word!r}; there are {', '.join(known)}")
    if "outside" not in words:
        raise PlanError("nat: outside is missing: the name of the bridge that is outside")
    return Nat(**words)
