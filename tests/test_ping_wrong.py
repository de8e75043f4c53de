"""Wrong answers, given by a responder in place of the kernel of one host: `ping` is not taken in."""

from __future__ import annotations

import os
import re
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from pace import seconds

from pytest_netns.packets import PingResult, ping

if TYPE_CHECKING:
    from pytest_netns._host import Host

Pair: TypeAlias = "tuple[Host, Host]"
#: Given an echo request from its ICMP header on, returns the messages to send back; checksums are filled in
#: later.
Behaviour: TypeAlias = "Callable[[bytes], Iterable[bytes]]"

BOTH = pytest.mark.parametrize("version", [4, 6])
#: Long enough for a proper answer on a busy machine, and never waited for where one comes.
PATIENT = seconds(20)
#: How long a ping waits for a wrong answer before it says so.
BRIEF = 0.5


def address_of(host: Host, version: int) -> str:
    address = host.ip if version == 4 else host.ip6
    assert address is not None
    return address


def internet_checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071, worked out as it says."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def reply_to(request: bytes, *, code: int = 0, identifier: int = 0, sequence: int = 0) -> bytes:
    """Return the proper reply, or one whose identifier or sequence number is off by so much."""
    number, echo = struct.unpack_from("!HH", request, 4)
    kind = 0 if request[0] == 8 else 129
    changed = struct.pack("!HH", (number + identifier) & 0xFFFF, (echo + sequence) & 0xFFFF)
    return bytes([kind, code, 0, 0]) + changed + request[8:]


class Responder:
    """Answers echoes in a host in place of its kernel, as a test says; keeps what it was asked."""

    def __init__(self, host: Host, version: int, behaviour: Behaviour, error: int = 0, source: str = "") -> None:
        self._version, self._behaviour, self._error = version, behaviour, error
        self._source = source or address_of(host, version)
        self.requests: list[bytes] = []
        self.ttls: list[int] = []
        host.sysctl("ipv4/icmp_echo_ignore_all" if version == 4 else "ipv6/icmp/echo_ignore_all", 1)
        if version == 4:
            self._socket = host.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        else:
            self._socket = host.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            self._socket.setsockopt(255, 7, -1)  # SOL_RAW, IPV6_CHECKSUM: ours may be wrong on purpose
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._stop, select.POLLIN | select.POLLHUP)
        while self._stop not in (ready := [fd for fd, _ in poll.poll(PATIENT * 1000)]):
            if self._socket.fileno() in ready:
                self._answer()

    def _answer(self) -> None:
        packet, extra, _, sender = self._socket.recvmsg(65_535, 64)
        request = packet[20:] if self._version == 4 else packet
        if request[0] != (8 if self._version == 4 else 128):
            return
        self.requests.append(request)
        self.ttls.append(packet[8] if self._version == 4 else int.from_bytes(extra[0][2], sys.byteorder))
        for message in self._behaviour(request):
            self._socket.sendto(self._sealed(message, sender[0]), (sender[0], 0))

    def _sealed(self, message: bytes, to: str) -> bytes:
        """Fill in the checksum, off by the error asked for, and put an IPv4 header before it."""
        family = socket.AF_INET if self._version == 4 else socket.AF_INET6
        ends = socket.inet_pton(family, self._source) + socket.inet_pton(family, to)
        pseudo = ends + struct.pack("!II", len(message), 58) if self._version == 6 else b""
        right = internet_checksum(pseudo + message[:2] + b"\0\0" + message[4:])
        message = message[:2] + struct.pack("!H", right ^ self._error) + message[4:]
        if self._version == 6:
            return message
        return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0, 64, 1, 0) + ends + message

    def __enter__(self) -> Responder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._stopped)
        self._thread.join()
        os.close(self._stop)
        self._socket.close()


WRONG: dict[str, tuple[Behaviour, dict[str, Any], str]] = {
    "other identifier": (
        lambda request: [reply_to(request, identifier=1)],
        {},
        "reply with identifier 0x[0-9a-f]{4} instead of 0x[0-9a-f]{4}, echo 1",
    ),
    "other sequence number": (
        lambda request: [reply_to(request, sequence=6)],
        {},
        "reply with sequence number 7, which had not been sent; nothing came for echo 1",
    ),
    "bad checksum": (
        lambda request: [reply_to(request)],
        {"error": 0x0100},
        "reply with a bad ICMP checksum, 0x[0-9a-f]{4}, echo 1",
    ),
    "altered payload": (
        lambda request: [reply_to(request)[:-1] + b"!"],
        {},
        "reply with an altered payload: byte 55 is 0x21 instead of 0x2d, echo 1",
    ),
    "short payload": (
        lambda request: [reply_to(request)[:-1]],
        {},
        "reply with 55 bytes of payload instead of 56, echo 1",
    ),
    "other code": (
        lambda request: [reply_to(request, code=1)],
        {},
        "reply with code 1 instead of 0, echo 1",
    ),
    "everything else": (
        lambda request: [reply_to(request, identifier=1)[:-1] + b"!"],
        {},
        "reply with identifier 0x[0-9a-f]{4}, perhaps to another ping; nothing came for echo 1",
    ),
}


class TestWrongAnswers:
    @BOTH
    @pytest.mark.parametrize("kind", WRONG)
    def test_is_no_success(self, netns_pair: Pair, version: int, kind: str) -> None:
        """A reply that is not byte for byte what its echo calls for is no success; the result says why."""
        beijing, shanghai = netns_pair
        behaviour, options, text = WRONG[kind]
        target = address_of(shanghai, version)
        with Responder(shanghai, version, behaviour, **options):
            result = ping(beijing, target, timeout=BRIEF)
        assert not result
        assert result.loss == 1
        assert len(result.unexpected) == 1
        assert re.search(f": 0 of 1 came back; from {target}: {text}", repr(result))

    def test_from_another_address(self, netns_pair: Pair) -> None:
        """The right reply from another address than the one that was pinged is no success."""
        beijing, shanghai = netns_pair
        with Responder(shanghai, 4, lambda request: [reply_to(request)], source="10.0.0.99"):
            result = ping(beijing, shanghai, timeout=BRIEF)
        assert not result
        text = "from 10.0.0.99: reply from another address than the one that was pinged, echo 1"
        assert text in repr(result)

    @BOTH
    def test_then_the_right_one(self, netns_pair: Pair, version: int) -> None:
        """A wrong reply does not keep the proper one from counting; the result holds both."""
        beijing, shanghai = netns_pair
        target = address_of(shanghai, version)
        with Responder(shanghai, version, lambda request: [reply_to(request, code=9), reply_to(request)]):
            result = ping(beijing, target, timeout=PATIENT)
        assert result
        assert [(note.echo, note.address) for note in result.unexpected] == [(1, target)]
        assert "1 of 1 came back" in repr(result)
        assert "code 9 instead of 0" in repr(result)

    @BOTH
    def test_twice(self, netns_pair: Pair, version: int) -> None:
        """A repeated reply counts once and is told."""
        beijing, shanghai = netns_pair
        with Responder(shanghai, version, lambda request: [reply_to(request)] * 2):
            result = ping(beijing, address_of(shanghai, version), 2, interval=BRIEF, timeout=PATIENT)
        assert result
        assert result.received == 2
        assert (1, "repeated reply") in [(note.echo, note.text) for note in result.unexpected]

    @BOTH
    def test_an_error_about_another_echo_is_not_ours(self, netns_pair: Pair, version: int) -> None:
        """An ICMP error about another host or another ping neither ends the wait nor is told."""
        beijing, shanghai = netns_pair

        def behaviour(request: bytes) -> list[bytes]:
            other = request[:4] + bytes([request[4] ^ 1]) + request[5:]
            elsewhere = unreachable(version, request, beijing, beijing)
            return [unreachable(version, other, beijing, shanghai), elsewhere, reply_to(request)]

        with Responder(shanghai, version, behaviour):
            result = ping(beijing, address_of(shanghai, version), timeout=PATIENT)
        assert result
        assert result.unexpected == ()

    @BOTH
    def test_an_error_ends_the_wait(self, netns_pair: Pair, version: int) -> None:
        """An ICMP error about an echo ends the wait for it, unless its own checksum is bad."""
        beijing, shanghai = netns_pair
        target = address_of(shanghai, version)

        def behaviour(request: bytes) -> list[bytes]:
            return [unreachable(version, request, beijing, shanghai)]

        with Responder(shanghai, version, behaviour):
            result = ping(beijing, target, timeout=3600)
        assert not result
        assert f"; from {target}: destination unreachable: port unreachable (type " in repr(result)
        with Responder(shanghai, version, behaviour, error=0x100):
            result = ping(beijing, target, timeout=BRIEF)
        assert not result
        assert f"; from {target}: ICMP error with a bad checksum" in repr(result)

    def test_a_redirect_is_no_end(self, netns_pair: Pair) -> None:
        """A redirect is told, but the wait goes on: the echo itself is on its way to its target."""
        beijing, shanghai = netns_pair

        def behaviour(request: bytes) -> Iterator[bytes]:
            yield b"\5" + unreachable(4, request, beijing, shanghai)[1:]
            threading.Event().wait(0.1)  # the way of the echo is longer than that of the redirect
            yield reply_to(request)

        with Responder(shanghai, 4, behaviour):
            result = ping(beijing, shanghai, timeout=PATIENT)
        assert result
        assert [note.text for note in result.unexpected] == ["redirect: tos host redirect (type 5, code 3)"]


def unreachable(version: int, request: bytes, beijing: Host, shanghai: Host) -> bytes:
    """Return the ICMP error that says so of an echo from beijing to shanghai."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    ends = b"".join(socket.inet_pton(family, address_of(host, version)) for host in (beijing, shanghai))
    if version == 4:
        quote = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(request), 0, 0, 64, 1, 0) + ends
        return struct.pack("!BBHI", 3, 3, 0, 0) + quote + request[:8]
    return struct.pack("!BBHI", 1, 4, 0, 0) + struct.pack("!IHBB", 6 << 28, len(request), 58, 64) + ends + request


class TestNoAnswer:
    @BOTH
    def test_a_silent_host(self, netns_pair: Pair, version: int) -> None:
        """A host that does not answer makes the result false when the timeout is over."""
        beijing, shanghai = netns_pair
        target = address_of(shanghai, version)
        with Responder(shanghai, version, lambda _: []) as there:
            result = ping(beijing, target, timeout=BRIEF)
        assert not result
        assert len(there.requests) == 1
        start = f"<ping beijing {address_of(beijing, version)} -> {target}: "
        assert repr(result) == f"{start}0 of 1 came back; nothing came for echo 1 within 0.5 s>"

    @BOTH
    def test_one_of_three_is_lost(self, netns_pair: Pair, version: int) -> None:
        """Where the second of three echoes is lost, replies 1 and 3 remain, and a loss of one third."""
        beijing, shanghai = netns_pair

        def behaviour(request: bytes) -> list[bytes]:
            return [] if request[6:8] == b"\0\2" else [reply_to(request)]

        with Responder(shanghai, version, behaviour):
            result = ping(beijing, address_of(shanghai, version), 3, timeout=BRIEF)
        assert not result
        assert (result.sent, result.received) == (3, 2)
        assert result.loss == pytest.approx(1 / 3)
        assert [reply.payload.seq for reply in result.replies] == [1, 3]
        assert "nothing came for echo 2 within 0.5 s" in repr(result)

    @pytest.mark.parametrize(("interval", "timeout", "received"), [(0.01, PATIENT, 2), (0.6, 0.5, 1)])
    def test_a_reply_has_its_own_time(self, netns_pair: Pair, interval: float, timeout: float, received: int) -> None:
        """A reply that comes after the next echo has left counts if within its own timeout, else not."""
        beijing, shanghai = netns_pair
        held: list[bytes] = []

        def behaviour(request: bytes) -> list[bytes]:
            held.append(reply_to(request))
            return held if len(held) == 2 else []

        with Responder(shanghai, 4, behaviour):
            result = ping(beijing, shanghai, 2, interval=interval, timeout=timeout)
        assert [answer.echo for answer in result.answers] == [1, 2][-received:]
        assert bool(result) is (received == 2)
        assert ("late reply, after" in repr(result)) is (received == 1)

    def test_replies_to_another_ping_are_not_ours(self, netns_pair: Pair) -> None:
        """A ping that loses an echo does not show the replies to another ping of the same host as its own."""
        beijing, shanghai = netns_pair
        other: list[PingResult] = []

        def behaviour(request: bytes) -> list[bytes]:
            if len(request) == 8 + 99:
                return [reply_to(request)]
            if request[6:8] == b"\0\1":
                return [reply_to(request)]
            thread = threading.Thread(target=lambda: other.append(ping(beijing, shanghai, size=99, timeout=PATIENT)))
            thread.start()
            threads.append(thread)
            return []

        threads: list[threading.Thread] = []
        with Responder(shanghai, 4, behaviour):
            result = ping(beijing, shanghai, 2, timeout=BRIEF)
            for thread in threads:
                thread.join()
        assert other[0]
        assert (result.received, result.unexpected) == (1, ())


@BOTH
def test_ttl_is_that_of_the_echo(netns_pair: Pair, version: int) -> None:
    """The echo leaves with the time to live, or hop limit, that was asked for."""
    beijing, shanghai = netns_pair
    with Responder(shanghai, version, lambda request: [reply_to(request)]) as there:
        assert ping(beijing, address_of(shanghai, version), ttl=7, timeout=PATIENT)
    assert there.ttls == [7]
