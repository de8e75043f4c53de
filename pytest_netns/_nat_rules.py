"""What a router that translates is told, in the language of nft(8): a pure function of the plan.

netfilter maps and filters by connection: a source keeps its port only as long as no two connections are in each
other's way, and only the remote side of a connection gets back in. What else RFC 4787 knows is written down packet by
packet, in maps: ``mapped`` tells which port a source has, ``ports`` whose a port is, ``sent`` to whom it has sent.
Packets are looked at when they have been translated (one priority after ``srcnat``), so the maps hold what was done and
not what was wished.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ._nat import DEPENDS, Nat, address_behind, outside_ends
from ._plan import End, Plan
from ._reach import unseen

__all__ = ["CLOSED", "NOTHING_LEFT", "OPEN_AGAIN", "Forwarded", "NatRules", "nat_rules"]

_INDEPENDENT, _ADDRESS, _BOTH = DEPENDS
_EMPTY = "table inet netns\ndelete table inet netns\n"
#: A router that translates no more.
NOTHING_LEFT = _EMPTY
#: Nothing passes while connections of before are forgotten: they would be taken for new ones and be written down.
CLOSED = "table inet netns_closed { chain closed { type filter hook forward priority filter; policy drop; }; }\n"
OPEN_AGAIN = "delete table inet netns_closed\n"

_WRITTEN_DOWN = "flags dynamic,timeout; timeout 300s; size 65535;"


class Forwarded(NamedTuple):
    """A port outside, and where it leads to by IPv4."""

    protocol: str
    port: int
    address: str
    to_port: int


@dataclass(frozen=True)
class NatRules:
    """What to give to ``nft -f -``: ``table`` replaces everything, ``forwards`` the forwarded ports and addresses."""

    table: str
    forwards: str
    forwarded: frozenset[Forwarded]


def nat_rules(plan: Plan, router: str) -> NatRules | None:
    """The rules of a router; None if it does not translate."""
    node = plan.nodes[router]
    ends = outside_ends(plan, router)
    if node.nat is None or not ends:
        return None
    outside = _set(f'"{end.name}"' for end in ends)
    address = next((address for end in ends if (address := end.address(4))), None)
    hairpin = node.nat.hairpin and address is not None
    parts = [
        *_maps(node.nat),
        _inward(node.nat, outside, hairpin=hairpin),
        _outward(outside, hairpin=hairpin),
        _translate("translate", "masquerade", node.nat),
        *([_translate("turn", f"snat ip to {address}", node.nat)] if hairpin else []),
        _learn(node.nat),
        *_guards(outside),
    ]
    text = "\n".join(f"    {line}" for part in parts for line in part.splitlines())
    return NatRules(f"{_EMPTY}table inet netns {{\n{text}\n}}\n", *_forwards(plan, router))


def _set(items: Iterable[str]) -> str:
    return f"{{ {', '.join(items)} }}"


def _source(nat: Nat) -> str:
    """What a mapping goes by, before translation."""
    return "ip saddr . meta l4proto . th sport" + (" . ip daddr" if nat.mapping == _ADDRESS else "")


def _has_owners(nat: Nat) -> bool:
    """Whether it has to be known whose a port is: to let others in."""
    return nat.filtering != _BOTH


def _maps(nat: Nat) -> list[str]:
    remote = " . ipv4_addr" if nat.mapping == _ADDRESS else ""
    maps = [
        "map forwards { type inet_proto . inet_service : ipv4_addr . inet_service; }",
        "map forwarded { type ipv4_addr . inet_proto . inet_service : inet_service; }",
        "set own { type ipv4_addr; }",
        "set within { type ipv4_addr; }",
        "set leading { type ipv4_addr . inet_proto . inet_service; }",
        "set hidden { type ipv4_addr; flags interval; }",
        "set kept { type inet_proto . inet_service; }",
        "set open { type ipv6_addr . inet_proto . inet_service; }",
    ]
    if nat.mapping != _BOTH:
        key = f"ipv4_addr . inet_proto . inet_service{remote}"
        maps.append(f"map mapped {{ type {key} : inet_service; {_WRITTEN_DOWN} }}")
    if _has_owners(nat):
        maps.append(f"map ports {{ type inet_proto . inet_service : ipv4_addr . inet_service; {_WRITTEN_DOWN} }}")
    if nat.preserve_ports:  # older kernels (6.1) do not look up in a map whether it has something
        maps.append(f"set taken {{ type inet_proto . inet_service; {_WRITTEN_DOWN} }}")
    if nat.filtering == _ADDRESS:
        maps.append(f"set sent {{ type inet_proto . inet_service . ipv4_addr; {_WRITTEN_DOWN} }}")
    return maps


def _inward(nat: Nat, outside: str, *, hairpin: bool) -> str:
    """Whom a packet is for that comes to an address of the router."""
    to_forward = "dnat ip to meta l4proto . th dport map @forwards"
    to_owner = "dnat ip to meta l4proto . th dport map @ports"
    to_outside = "meta nfproto ipv4 fib daddr type local ip daddr != @within"  # or an address that a program gave
    from_outside = f"iifname {outside} {to_outside} meta l4proto {{ tcp, udp }}"
    lines = [f"{from_outside} {to_forward}"]
    if nat.filtering == _INDEPENDENT:
        lines.append(f"{from_outside} {to_owner}")
    elif nat.filtering == _ADDRESS:
        lines.append(f"{from_outside} meta l4proto . th dport . ip saddr @sent {to_owner}")
    if hairpin:
        from_inside = f"iifname != {outside} ip daddr @own meta l4proto {{ tcp, udp }}"
        lines.append(f"{from_inside} {to_forward}")
        if nat.filtering == _INDEPENDENT:
            lines.append(f"{from_inside} {to_owner}")
    return _chain("inward", "type nat hook prerouting priority dstnat;", lines)


def _outward(outside: str, *, hairpin: bool) -> str:
    lines = ["meta nfproto != ipv4 return", "fib saddr type local return", f"oifname {outside} jump translate"]
    if hairpin:
        lines.append(f"iifname != {outside} ct status dnat ct original ip daddr @own jump turn")
    return _chain("outward", "type nat hook postrouting priority srcnat;", lines)


def _translate(name: str, verb: str, nat: Nat) -> str:
    """Which port a packet leaves from; the first rule that knows one."""
    to = f"meta nfproto ipv4 meta l4proto {{ tcp, udp }} {verb}" + (" to" if verb == "masquerade" else "")
    lines = [
        f"meta l4proto != {{ tcp, udp }} {verb}",
        f"{to} : ip saddr . meta l4proto . th sport map @forwarded",
    ]
    if nat.mapping != _BOTH:
        lines.append(f"{to} : {_source(nat)} map @mapped")
    if nat.preserve_ports:
        lines.append(f"meta l4proto . th sport != @kept meta l4proto . th sport != @taken {verb}")
    lines.append(f"{to} :1024-65535 fully-random")
    return _chain(name, "", lines)


def _learn(nat: Nat) -> str:
    """Write down what was done. ``th sport`` is the port outside by now.

    Whoever has a port that is forwarded to somebody else has it no longer than its connections last.
    """
    first, last = "ct original ip saddr . meta l4proto . ct original proto-src", "meta l4proto . th sport"
    lines = ["meta nfproto != ipv4 return"]
    translated = "meta l4proto { tcp, udp } ct status snat ct direction original"
    if nat.preserve_ports:
        lines.append(f"{translated} update @taken {{ {last} }}")
    lines.append(f"meta l4proto {{ tcp, udp }} {last} @kept {first} != @leading return")
    if nat.mapping != _BOTH:
        remote = " . ip daddr" if nat.mapping == _ADDRESS else ""
        lines.append(f"{translated} update @mapped {{ {first}{remote} : th sport }}")
    if _has_owners(nat):
        owner = "ct original ip saddr . ct original proto-src"
        lines.append(f"{translated} update @ports {{ {last} : {owner} }}")
    if nat.filtering == _ADDRESS:
        lines.append(f"{translated} update @sent {{ {last} . ip daddr }}")
    return _chain("learn", "type filter hook postrouting priority srcnat + 1;", lines)


def _guards(outside: str) -> list[str]:
    """Who is not let in from outside: whoever opens a connection to a host, or by TCP or UDP to the router itself.

    A packet that the router refused would count as a connection; it would be in the way of the one that a host opens to
    the same remote side a moment later, as two hosts do that meet through their routers (RFC 5128, 3.3). IPv6, which is
    not translated, has no such trouble: at a port that is forwarded by IPv4 the router refuses TCP, as programs try
    IPv6 first and would wait.

    What conntrack finds invalid is not translated. It does not go out from networks that nobody outside gets to; from
    others it may be an answer to somebody whose question came another way.
    """
    untranslated = f"iifname != {outside} oifname {outside} ip saddr @hidden ct state invalid drop"
    refused = "meta nfproto ipv6 meta l4proto tcp meta l4proto . th dport @kept reject with tcp reset"
    let_in = [
        f"iifname != {outside} accept",
        "ct state established,related accept",
        "ct status dnat accept",
        "meta l4proto { tcp, udp } ip6 daddr . meta l4proto . th dport @open accept",
    ]
    return [
        _chain("guard", "type filter hook forward priority filter;", [untranslated, *let_in, "drop"]),
        _chain("own", "type filter hook input priority filter;", [*let_in, refused, "meta l4proto { tcp, udp } drop"]),
    ]


def _chain(name: str, kind: str, lines: list[str]) -> str:
    return "\n".join([f"chain {name} {{", *(f"    {line}" for line in [kind, *lines] if line), "}"])


def _addresses(ends: Iterable[End]) -> list[str]:
    """By IPv4, each once."""
    return list(dict.fromkeys(text.split("/")[0] for end in ends for text in end.addresses if ":" not in text))


def _forwards(plan: Plan, router: str) -> tuple[str, frozenset[Forwarded]]:
    lines = [f"flush map inet netns {name}" for name in ("forwards", "forwarded")] + [
        "flush set inet netns own",
        "flush set inet netns within",
        "flush set inet netns leading",
        "flush set inet netns hidden",
        "flush set inet netns kept",
        "flush set inet netns open",
    ]
    own = _addresses(outside_ends(plan, router))
    within = [each for each in _addresses(plan.of_node[router]) if each not in own]
    lines += [f"add element inet netns own {{ {address} }}" for address in own]
    lines += [f"add element inet netns within {{ {address} }}" for address in within]
    nat = plan.nodes[router].nat
    hidden = unseen(plan, nat.outside) if nat is not None else []
    lines += [f"add element inet netns hidden {{ {network} }}" for network in hidden]
    seen: set[tuple[str, str]] = set()
    found = []
    for each in plan.nodes[router].port_forwards:
        four, six = (address_behind(plan, router, each.to, version) for version in (4, 6))
        inner = f"{each.protocol} . {each.to_port}"
        again = (each.to, inner) in seen  # two ports that lead to one: it is seen at the first
        seen.add((each.to, inner))
        if four:
            outer = f"{each.protocol} . {each.port}"
            lines.append(f"add element inet netns kept {{ {outer} }}")
            lines.append(f"add element inet netns forwards {{ {outer} : {four} . {each.to_port} }}")
            found.append(Forwarded(each.protocol, each.port, four, each.to_port))
            if not again:
                lines.append(f"add element inet netns leading {{ {four} . {inner} }}")
                lines.append(f"add element inet netns forwarded {{ {four} . {inner} : {each.port} }}")
        if six and not again:
            lines.append(f"add element inet netns open {{ {six} . {inner} }}")
    return "\n".join(lines) + "\n", frozenset(found)
