"""Echoes over raw sockets: send them, and tell proper replies from everything else. Knows ICMP, and no scapy.

An echo is eight bytes and a payload, and a reply that counts is byte for byte what its echo calls for: so nobody who
pings waits until scapy is imported, which takes a fifth of a second. `packets` has scapy read what came, for those who
ask, and put into words what was not called for. Packets are handed around as bytes from the IP header on; the kernel
keeps IPv6 headers to itself, so they are rebuilt.

Sources: RFC 792, RFC 1071, RFC 4443, raw(7), icmp(7), ipv6(7).
"""

from __future__ import annotations

import functools
import math
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from time import perf_counter
from typing import Any, NamedTuple, Protocol

__all__ = ["LARGEST", "Answer", "Exchange", "Host", "Place", "open_sockets", "own_identifier"]

#: By IP version: the type of an echo, of its reply, and of the errors that may quote an echo.
_ECHO, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
_PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
_ERRORS = {4: (3, 5, 11, 12), 6: (1, 2, 3, 4)}
_REDIRECT = 5  # of IPv4: advice to the sender, while the packet itself goes on to its target
#: What fits into one datagram: 65,535 less both headers; IPv6 does not count its own (RFC 8200, 3).
LARGEST = {4: 65_507, 6: 65_527}
#: From linux/icmp.h, linux/icmpv6.h and linux/in6.h, for want of names in `socket`.
_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER, _IPV6_CHECKSUM, _IPV6_FRAGMENT = 255, 1, 1, 7, 44
#: Without an interval the next echo waits this many seconds for the answer to the one before (`ping -f`).
_PATIENCE = 0.01
_INT = struct.Struct("@i")


class Host(Protocol):
    """What a ping needs of the host that sends, and of one that is its target."""

    @property
    def name(self) -> str: ...
    @property
    def ip(self) -> str | None: ...
    @property
    def ip6(self) -> str | None: ...
    @property
    def closed(self) -> bool: ...
    @property
    def why_closed(self) -> str: ...
    def socket(self, family: int, kind: int, proto: int, /) -> _Socket: ...
    def resolve(self, name: str, /) -> str: ...
    def interface_index(self, name: str, /) -> int: ...
    def meets_at(self, target: Any, /) -> tuple[str | None, str | None]: ...
    def namesake_of(self, target: Any, address: str, /) -> Host | None: ...


_Socket = socket.socket


class Place(NamedTuple):
    """Where echoes go; `label` is what the caller called it."""

    label: str
    address: str
    version: int
    packed: bytes
    sockaddr: tuple[Any, ...]


class Answer(NamedTuple):
    """The proper reply to one echo: its number from 1, the seconds it took, the packet."""

    echo: int
    rtt: float
    data: bytes


class Remark(NamedTuple):
    """What came instead of a proper reply or besides; an ICMP error speaks for itself and has no `text`."""

    echo: int | None
    address: str
    text: str | None
    data: bytes


#: The identifiers of the pings that this process has under way, so that pings from threads keep apart.
_taken: dict[bytes, object] = {}


@contextmanager
def own_identifier() -> Iterator[bytes]:
    """Hold two bytes that no other ping of this process has. No lock is used: a fork might copy it held.

    Not from `random`: a test's seed must not be used up here, nor give two processes equal numbers.
    """
    mark = object()
    while _taken.setdefault(identifier := os.urandom(2), mark) is not mark:
        pass
    try:
        yield identifier
    finally:
        del _taken[identifier]


@contextmanager
def open_sockets(source: Host, version: int, ttl: int, timeout: float) -> Iterator[tuple[_Socket, _Socket]]:
    """Open what echoes leave by and what answers come in by; filters keep other ICMP out of the queues."""
    wanted = (_REPLY[version], *_ERRORS[version])
    with ExitStack() as stack:
        if version == 4:
            talk = listen = stack.enter_context(source.socket(socket.AF_INET, socket.SOCK_RAW, _PROTOCOL[4]))
            listen.setsockopt(_SOL_RAW, _ICMP_FILTER, _all_but(wanted, words=1))
            talk.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        else:  # two: the kernel is to fill in the checksums of echoes, yet not to hide replies with a bad one
            talk, listen = (
                stack.enter_context(source.socket(socket.AF_INET6, socket.SOCK_RAW, _PROTOCOL[6])) for _ in range(2)
            )
            talk.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _all_but((), words=8))
            talk.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
            listen.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _all_but(wanted, words=8))
            listen.setsockopt(_SOL_RAW, _IPV6_CHECKSUM, -1)
            for option in (socket.IPV6_RECVPKTINFO, socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVTCLASS):
                listen.setsockopt(socket.IPPROTO_IPV6, option, 1)
        for end in (talk, listen):
            end.settimeout(None)  # whatever socket.setdefaulttimeout() says; reading never waits
        patience = struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6))
        talk.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        yield talk, listen


@functools.cache
def _all_but(kinds: tuple[int, ...], words: int) -> bytes:
    """Return the filter that blocks all ICMP types but these: a set bit blocks, in words of 32 bits."""
    bits = (1 << 32 * words) - 1 - sum(1 << kind for kind in kinds)
    return struct.pack(f"={words}I", *(bits >> 32 * word & 0xFFFFFFFF for word in range(words)))


class Exchange:
    """The echoes of one ping on their way, and what is known of them so far.

    Args:
        on_refusal: Told the number of an echo and the kernel's error when it does not take it; may raise.
    """

    def __init__(
        self,
        place: Place,
        sockets: tuple[_Socket, _Socket],
        identifier: bytes,
        *,
        size: int,
        timeout: float,
        on_refusal: Callable[[int, OSError], None],
    ) -> None:
        self._place, self._size, self._timeout = place, size, timeout
        self._talk, self._listen = sockets
        self._on_refusal = on_refusal
        self._identifier = identifier
        self._filler = os.urandom(8) + bytes(range(256)) * (size // 256 + 1)
        #: When each echo that the kernel took left, by the clock of `time.perf_counter`.
        self.departures: dict[int, float] = {}
        self._open: dict[int, float] = {}  # the departures that still wait
        self._answers: dict[int, Answer] = {}
        self._remarks: list[Remark] = []
        self._strangers: dict[bytes, bytes] = {}  # replies with other identifiers, one for each

    def run(self, count: int, interval: float | None) -> None:
        """Send all echoes and wait until each has been answered or its time is over."""
        begin = perf_counter()
        for echo in range(1, count + 1):
            self._send(echo)
            if echo == count:
                self._wait(math.inf, idle=True)
            elif interval is None:
                self._wait(perf_counter() + _PATIENCE, idle=True)
            else:
                self._wait(begin + echo * interval, idle=False)

    def source_address(self) -> str | None:
        """Return the address that the kernel sends from to this target; None if it would not send."""
        with suppress(OSError):
            self._talk.connect(self._place.sockaddr)
            return str(self._talk.getsockname()[0])
        return None

    def answers(self) -> tuple[Answer, ...]:
        """Return the proper replies in the order of their echoes."""
        return tuple(self._answers[echo] for echo in sorted(self._answers))

    def remarks(self) -> tuple[Remark, ...]:
        """Return what else came, in the order it came.

        A raw socket hears the replies to all pings of its host. One with another identifier is ours, gone
        wrong, if it carries our payload; others are worth a word only if there is nothing else to show.
        """
        missing = self.departures.keys() - self._answers.keys()
        ours, others = [], []
        for identifier, packet in self._strangers.items():
            message, sender = _message(packet), _text(_sender(packet))
            echo, text = int.from_bytes(message[6:8], "big"), f"reply with identifier 0x{identifier.hex()}"
            if echo in missing and message[6:] == self._body(echo)[2:]:
                text += f" instead of 0x{self._identifier.hex()}"
                ours.append(Remark(echo, sender, text, packet))
            others.append(Remark(None, sender, f"{text}, perhaps to another ping", packet))
        if missing and not (ours or self._remarks or self._answers):
            ours = others
        return (*self._remarks, *ours)

    def _body(self, echo: int) -> bytes:
        """Return identifier, number and a payload that no other echo has: all that a reply must give back."""
        number = struct.pack("!H", echo)
        return self._identifier + number + (number + self._filler)[: self._size]

    def _send(self, echo: int) -> None:
        head, body = bytes((_ECHO[self._place.version], 0)), self._body(echo)
        # For IPv6 the kernel does it.
        total = _checksum(head + b"\0\0" + body) if self._place.version == 4 else 0
        message = head + struct.pack("!H", total) + body
        departure = perf_counter()
        try:
            self._talk.sendto(message, self._place.sockaddr)
        except OSError as error:
            self._on_refusal(echo, error)
        else:
            self.departures[echo] = self._open[echo] = departure

    def _wait(self, until: float, *, idle: bool) -> None:
        """Judge what comes until the time given; if `idle`, only as long as an echo may still be answered."""
        poll = select.poll()
        poll.register(self._listen, select.POLLIN)
        while True:
            # Whatever a flood brings, the clock is looked at after 500 packets.
            for packet in islice(self._arrivals(), 500):
                self._judge(packet, perf_counter())
            end = until
            if idle:
                last = next(reversed(self._open.values()), -math.inf)
                end = min(until, last + self._timeout)
            left = end - perf_counter()
            if left <= 0:
                return
            poll.poll(left * 1000)

    def _arrivals(self) -> Iterator[bytes]:
        with suppress(BlockingIOError):
            while self._place.version == 4:
                yield self._listen.recv(65_535, socket.MSG_DONTWAIT)
            while True:
                data, extra, _, sender = self._listen.recvmsg(65_535, 256, socket.MSG_DONTWAIT)
                found = {kind: value for _, kind, value in extra}
                (hops,), (traffic,) = map(_INT.unpack, (found[socket.IPV6_HOPLIMIT], found[socket.IPV6_TCLASS]))
                head = struct.pack("!IHBB", 6 << 28 | traffic << 20, len(data), socket.IPPROTO_ICMPV6, hops)
                origin = socket.inet_pton(socket.AF_INET6, sender[0].partition("%")[0])
                yield head + origin + found[socket.IPV6_PKTINFO][:16] + data

    def _judge(self, packet: bytes, now: float) -> None:
        message = _message(packet)
        if len(message) < 8 or message[0] != _REPLY[self._place.version]:
            self._judge_error(packet, message)
            return
        echo = int.from_bytes(message[6:8], "big")
        if message[4:6] != self._identifier:
            if _sender(packet) == self._place.packed:
                self._strangers.setdefault(message[4:6], packet)
        elif fault := next(self._faults(echo, packet, now), None):
            about = echo if echo in self.departures else None
            self._remarks.append(Remark(about, _text(_sender(packet)), fault, packet))
        else:
            self._answers[echo] = Answer(echo, now - self.departures[echo], packet)
            self._open.pop(echo, None)

    def _faults(self, echo: int, packet: bytes, now: float) -> Iterator[str]:
        """Yield what is wrong with a reply that bears our identifier, the gravest first."""
        message = _message(packet)
        body = self._body(echo)
        if not self._sum_is_right(packet):
            yield f"reply with a bad ICMP checksum, 0x{message[2:4].hex()}"
        if echo not in self.departures:
            yield f"reply with sequence number {echo}, which had not been sent"
            return
        if _sender(packet) != self._place.packed:
            yield "reply from another address than the one that was pinged"
        if message[1] != 0:
            yield f"reply with code {message[1]} instead of 0"
        if len(message) != len(body) + 4:
            yield f"reply with {len(message) - 8} bytes of payload instead of {self._size}"
        if message[8:] != body[4:]:
            pairs = enumerate(zip(message[8:], body[4:], strict=False))
            at, (got, wanted) = next((at, pair) for at, pair in pairs if pair[0] != pair[1])
            yield f"reply with an altered payload: byte {at} is 0x{got:02x} instead of 0x{wanted:02x}"
        if echo in self._answers:
            yield "repeated reply"
        if (took := now - self.departures[echo]) > self._timeout:
            yield f"late reply, after {took:.3f} s"

    def _judge_error(self, packet: bytes, message: bytes) -> None:
        if (echo := self._quoted(message[8:])) is None:
            return
        text = None
        if not self._sum_is_right(packet):
            text = f"ICMP error with a bad checksum, 0x{message[2:4].hex()}"
        self._remarks.append(Remark(echo, _text(_sender(packet)), text, packet))
        if text is None and not (self._place.version == 4 and message[0] == _REDIRECT):
            self._open.pop(echo, None)

    def _quoted(self, quote: bytes) -> int | None:
        """Return the number of our echo that an ICMP error quotes; None if it is about something else."""
        if self._place.version == 4:
            at, protocol, target = (quote[:1] or b"\0")[0] % 16 * 4, quote[9:10], quote[16:20]
        else:
            at, protocol, target = 40, quote[6:7], quote[24:40]
            if protocol[:1] == bytes([_IPV6_FRAGMENT]):
                at, protocol = 48, quote[40:41]
        inner = quote[at : at + 8]
        echo = int.from_bytes(inner[6:8], "big")
        is_ours = (
            protocol == bytes([_PROTOCOL[self._place.version]])
            and target == self._place.packed
            and inner[:1] == bytes([_ECHO[self._place.version]])
            and inner[4:6] == self._identifier
            and echo in self.departures
        )
        return echo if is_ours else None

    def _sum_is_right(self, packet: bytes) -> bool:
        message = _message(packet)
        if self._place.version == 6:  # RFC 8200, 8.1: with addresses, length and protocol before it
            message = packet[8:40] + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6) + message
        return _checksum(message) == 0


def _checksum(data: bytes) -> int:
    """The internet checksum of some bytes that are not all zero; 0 if they hold their own right one.

    What the ones' complement sum of 16-bit words is congruent to (RFC 1071, 2).
    """
    return 0xFFFF - (int.from_bytes(data + b"\0" * (len(data) % 2), "big") % 0xFFFF or 0xFFFF)


def _message(packet: bytes) -> bytes:
    """Return the ICMP message in an IP packet."""
    return packet[packet[0] % 16 * 4 if packet[0] >> 4 == 4 else 40 :]


def _sender(packet: bytes) -> bytes:
    return packet[12:16] if packet[0] >> 4 == 4 else packet[8:24]


def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
