"""Packets: the only module that knows scapy, which it imports when somebody looks at a packet and not before.

scapy reads packets here; it never carries them: its own ``sr1`` costs 24 ms for one echo and goes by the interfaces
and routes of whichever namespace imported it. Echoes travel over raw sockets that live in the source's namespace
(`_echo`), so the kernel of that host picks route and source address.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from ._echo import LARGEST, Answer, Exchange, Host, Place, open_sockets, own_identifier
from ._errors import NetnsError, hide_own_frames

if TYPE_CHECKING:
    from scapy.packet import Packet

__all__ = ["PingNote", "PingResult", "ping"]

__tracebackhide__ = hide_own_frames

_Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"

#: What the kernel says when it does not take a packet, and what that means; any other errno is raised.
_REFUSALS = {
    errno.ENETUNREACH: "{source} has no route to {address}",
    errno.EHOSTUNREACH: "{source} has a route that says so, or no neighbour answers for {address}",
    errno.EADDRNOTAVAIL: "{source} has no usable IPv{version} address to send from",
    errno.EMSGSIZE: "{size} bytes are too many for the way from {source} to {address}",
    errno.EPERM: "a packet filter in {source} dropped it on its way out",
    errno.EACCES: "{source} has a prohibiting route to {address}, or it is a broadcast address",
    errno.EINVAL: "{source} has a blackhole route to {address}",
    errno.ENETDOWN: "the interface of {source} towards {address} is down",
    errno.ENODEV: "the interface of {source} towards {address} is gone",
    errno.ENOBUFS: "a queue of {source} towards {address} is full",
    errno.EAGAIN: "what was sent before still fills the queues of {source}",
}


@dataclass(frozen=True)
class PingNote:
    """Something about a ping that is not a proper reply."""

    #: Sequence number of the echo that it is about, from 1; None if it fits none.
    echo: int | None
    #: Who sent it; None if nothing came.
    address: str | None
    #: What came, or why the echo was not sent.
    text: str
    #: The packet from its IP header on; empty if nothing came.
    data: bytes = b""

    @property
    def packet(self) -> Packet | None:
        """The packet, dissected by scapy; None if nothing came."""
        return _dissect(self.data) if self.data else None


@dataclass(frozen=True, repr=False)
class PingResult:
    """What became of the echoes of one `ping`; true if every one of them came back properly."""

    #: Name of the host that pinged, and the address it sends to the target from (None without a route).
    source: str
    source_address: str | None
    #: Name of what was pinged (its address where no more was given), and the address that was pinged.
    target: str
    address: str
    #: How many echoes were asked for, and how many of them the kernel took.
    count: int
    sent: int
    #: Seconds that each reply had.
    timeout: float
    #: Proper replies in the order of their echoes.
    answers: tuple[Answer, ...]
    #: What came instead or as well: ICMP errors about our echoes; wrong, late and repeated replies. Or that there is no
    #: such host any more.
    unexpected: tuple[PingNote, ...]
    #: Echoes that the kernel did not take, and why.
    unsent: tuple[PingNote, ...]

    def __bool__(self) -> bool:
        return self.received == self.count

    @property
    def received(self) -> int:
        """How many echoes came back properly."""
        return len(self.answers)

    @property
    def loss(self) -> float:
        """Share, 0 to 1, of the echoes asked for that did not come back."""
        return (self.count - self.received) / self.count

    @property
    def rtts(self) -> tuple[float, ...]:
        """Round-trip times in seconds, in the order of the echoes."""
        return tuple(answer.rtt for answer in self.answers)

    @property
    def min(self) -> float | None:
        """Shortest round trip in seconds; None if nothing came back."""
        return min(self.rtts, default=None)

    @property
    def avg(self) -> float | None:
        """Mean round trip in seconds; None if nothing came back."""
        return math.fsum(self.rtts) / self.received if self.answers else None

    @property
    def max(self) -> float | None:
        """Longest round trip in seconds; None if nothing came back."""
        return max(self.rtts, default=None)

    @functools.cached_property
    def replies(self) -> tuple[Packet, ...]:
        """Proper replies as scapy packets, ``IP`` or ``IPv6`` first; dissected when first asked for."""
        return tuple(_dissect(answer.data) for answer in self.answers)

    def __repr__(self) -> str:
        start = self.source if self.source_address is None else f"{self.source} {self.source_address}"
        end = self.address if self.target == self.address else f"{self.target} {self.address}"
        parts = [f"{self.received} of {self.count} came back"]
        if self.answers:
            times = "/".join(f"{seconds * 1000:.3f}" for seconds in (self.min, self.avg, self.max) if seconds)
            parts[0] += f", rtt min/avg/max {times} ms"
        parts += _summary(self.unsent) + _summary(self.unexpected)
        noted = {note.echo for note in self.unsent + self.unexpected} | {a.echo for a in self.answers}
        if silent := [echo for echo in range(1, self.count + 1) if echo not in noted]:
            parts.append(f"nothing came for {_echoes(silent)} within {self.timeout:g} s")
        return f"<ping {start} -> {end}: {'; '.join(parts)}>"


def ping(
    source: Host,
    target: Host | str | _Address,
    count: int = 1,
    *,
    interval: float | None = None,
    timeout: float = 1.0,
    size: int = 56,
    ttl: int = 64,
) -> PingResult:
    """Send ICMP or ICMPv6 echoes from one host and tell what came back.

    A reply counts only if it comes from the address that was pinged, within its time, with the right
    identifier, sequence number, payload and ICMP checksum. Whatever else comes is in the result, which is
    then false unless the proper replies came too. So is the kernel's answer if it refuses to send: a missing
    route is a result, no error. The call returns with the last answer; an echo for which an ICMP error came
    is not waited for any longer.

    Args:
        source: The host that sends.
        target: A host (its IPv4 address if both have one, else IPv6), an address, or a name that ``source``
            resolves. A link-local address names its interface in the source's namespace: ``fe80::1%eth0``.
        count: How many echoes, numbered from 1.
        interval: Seconds between two departures, answered or not, as with ``ping -i``. By default an echo
            leaves when the one before is answered, and after 0.01 s in any case, as with ``ping -f``: the one
            second of ping(8) suits a person who watches, not a test.
        timeout: Seconds that each reply may take. Generous next to the 0.1 ms of a warm veth pair, yet all
            that an ``assert not ping(...)`` has to wait. The kernel reports a neighbour that does not answer
            after 3 s only.
        size: Bytes of payload; what exceeds the MTU is fragmented.
        ttl: Time to live, or hop limit, of the echoes.

    Returns:
        The result: true if every echo came back. Times are of the monotonic clock as this process sees them;
        the kernel's receive stamps (SO_TIMESTAMPNS) would switch stamping on and off for the whole machine.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of range, a name is unknown, or the target has no address.
        NetnsError: The source's namespace gives no socket.

    Sources: RFC 792, RFC 4443, raw(7), icmp(7), ipv6(7), ping(8).
    """
    if not _is_host(source):
        raise TypeError(f"ping: source={source!r}: expected a host")
    _check("count", count, int, 1, 65_535)  # the sequence number has 16 bits
    _check("ttl", ttl, int, 1, 255)
    _check("timeout", timeout, (int, float), 1e-6, 86_400)
    if interval is not None:
        _check("interval", interval, (int, float), 0, 86_400)
    place = _locate(source, target)
    _check("size", size, int, 0, LARGEST[place.version])
    result = _exchange(source, place, count, interval=interval, timeout=timeout, size=size, ttl=ttl)
    if _is_host(target) and target.closed:
        return replace(result, unexpected=(PingNote(None, None, target.why_closed), *result.unexpected))
    return result


def _exchange(
    source: Host, place: Place, count: int, *, interval: float | None, timeout: float, size: int, ttl: int
) -> PingResult:
    unsent: list[PingNote] = []

    def refused(echo: int, error: OSError) -> None:
        if error.errno not in _REFUSALS:
            raise error
        why = _REFUSALS[error.errno].format(source=source.name, size=size, **place._asdict())
        unsent.append(PingNote(echo, None, f"not sent: {error.strerror} \N{EM DASH} {why}"))

    with own_identifier() as identifier, open_sockets(source, place.version, ttl, timeout) as sockets:
        exchange = Exchange(place, sockets, identifier, size=size, timeout=timeout, on_refusal=refused)
        exchange.run(count, interval)
        return PingResult(
            source=source.name,
            source_address=exchange.source_address(),
            target=place.label,
            address=place.address,
            count=count,
            sent=len(exchange.departures),
            timeout=timeout,
            answers=exchange.answers(),
            unexpected=tuple(
                PingNote(echo, address, _describe(data) if text is None else text, data)
                for echo, address, text, data in exchange.remarks()
            ),
            unsent=tuple(unsent),
        )


def _is_host(value: object) -> TypeGuard[Host]:
    # A runtime-checkable protocol takes 20 us for this. Bridges lack the one, paths have the other.
    return hasattr(value, "interface_index") and hasattr(value, "resolve")


def _check(name: str, value: float, types: type | tuple[type, ...], low: float, high: float) -> None:
    wanted = "an integer" if types is int else "a number"
    message = f"ping: {name}={value!r}: expected {wanted} from {low} to {high}"
    if not isinstance(value, types) or isinstance(value, bool):
        raise TypeError(message)
    if not low <= value <= high:  # not `value < low or …`: NaN is to be refused too
        raise ValueError(message)


def _locate(source: Host, target: object) -> Place:
    label, address = _address_of(source, target)
    if address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255":
        raise ValueError(f"ping: target={target!r}: expected the address of one host")
    if isinstance(address, ipaddress.IPv4Address):
        return Place(label or str(address), str(address), 4, address.packed, (str(address), 0))
    scope = address.scope_id
    if address.is_link_local and scope is None:
        raise ValueError(f"ping: target={target!r}: expected the interface too, such as {address}%eth0")
    try:
        index = 0 if scope is None else int(scope) if scope.isdecimal() else source.interface_index(scope)
    except LookupError as error:
        raise ValueError(f"ping: target={target!r}: {error.args[0]}") from error
    bare = str(ipaddress.IPv6Address(address.packed))
    return Place(label or str(address), str(address), 6, address.packed, (bare, 0, 0, index))


def _address_of(source: Host, target: object) -> tuple[str, _Address]:
    """Return the name of what is pinged, empty if it has none, and its address."""
    if isinstance(target, (ipaddress.IPv4Interface, ipaddress.IPv6Interface)):
        return "", target.ip
    if isinstance(target, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        return "", target
    if isinstance(target, str):
        with suppress(ValueError):
            return "", ipaddress.ip_address(target)
        try:
            return target, ipaddress.ip_address(source.resolve(target))
        except (NetnsError, LookupError) as error:
            raise ValueError(f"ping: target={target!r}: {source.name} cannot resolve this name: {error}") from error
    if not _is_host(target):
        raise TypeError(f"ping: target={target!r}: expected a host, an address or a name")
    four, six = source.meets_at(target)
    address = four if four and (source.ip or not (source.ip6 and six)) else six
    if not address:
        raise ValueError(
            f"ping: target={target!r}: expected a host with an address; {target.name} has none"
            f" that its plan or add_address has given. One that a program inside has got, by DHCP for one, is given as "
            "text: ping(source, 'ADDRESS')"
        )
    if other := source.namesake_of(target, address):
        owner = "the source itself" if other is source else other.name
        if target.closed:
            raise ValueError(
                f"ping: target={target!r}: {target.why_closed}; its address {address} belongs to {owner} now"
            )
        raise ValueError(
            f"ping: target={target!r}: this {target.name} is in another network than the source, {source.name}; there "
            f"{address} belongs to {owner}. Give one of the two networks another subnet, or ping the router in "
            f"front of {target.name} by its name"
        )
    return target.name, ipaddress.ip_address(address)


def _dissect(data: bytes) -> Packet:
    from scapy.layers.inet import IP

    if data[0] >> 4 == 4:
        return IP(data)
    from scapy.layers.inet6 import IPv6

    return IPv6(data)


def _describe(data: bytes) -> str:
    """Say in scapy's words what an ICMP error means."""
    error: Any = _dissect(data).payload
    kind, code = (
        str(error.get_field(field).i2repr(error, getattr(error, field))).replace("-", " ").lower()
        for field in ("type", "code")
    )
    if kind == "dest unreach":
        kind = "destination unreachable"
    if not code.isdecimal():
        kind += f": {code}"
    return f"{kind} (type {error.type}, code {error.code})"


def _summary(notes: Sequence[PingNote]) -> list[str]:
    """Say each thing once, with all the echoes that it is about; no more than five things."""
    grouped: dict[tuple[str | None, str], list[int]] = {}
    for note in notes:
        about = grouped.setdefault((note.address, note.text), [])
        if note.echo is not None:
            about.append(note.echo)
    lines = []
    for (address, text), echoes in grouped.items():
        line = text if address is None else f"from {address}: {text}"
        lines.append(f"{line}, {_echoes(echoes)}" if echoes else line)
    return lines if len(lines) <= 5 else [*lines[:5], f"and {len(lines) - 5} things more"]


def _echoes(numbers: Sequence[int]) -> str:
    """Return ``echo 2`` or ``echoes 1-3, 7``."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    spans = ", ".join("-".join(map(str, run)) for run in runs)
    return f"echo {spans}" if len(set(numbers)) == 1 else f"echoes {spans}"
