"""Carries rtnetlink requests, in one batch, over a socket that lives in a namespace; and waits for readiness.

pyroute2 encodes and decodes the messages; its own sockets are not used, since they raise inside a running
event loop and in a second thread.

Requests of one batch go in one send. Only the last asks for an acknowledgement: the kernel works them off in
order and reports a refused one unasked (netlink(7)).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ._answers import HEADER, cut, note, running, unsettled
from ._errors import KernelError, WaitTimeout, hide_own_frames
from ._requests import Request, delete_neighbour, get_link

__all__ = ["Netlink"]

__tracebackhide__ = hide_own_frames

# linux/netlink.h, linux/rtnetlink.h, linux/if.h, linux/if_addr.h
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_NEWLINK, _GETLINK, _NEWADDR, _GETADDR, _GETROUTE, _GETNEIGH = 16, 18, 20, 22, 26, 30
_IFA_F_TENTATIVE = 0x40
_DECIDED = (3, 4)  # BR_STATE_FORWARDING, BR_STATE_BLOCKING (linux/if_bridge.h)
# linux/neighbour.h
_NUD_INCOMPLETE, _NUD_PROBE, _NUD_FAILED, _NUD_NOARP, _NUD_PERMANENT = 0x01, 0x10, 0x20, 0x40, 0x80
_RTNLGRP_LINK, _RTNLGRP_IPV6_IFADDR = 1, 9
_SOL_NETLINK, _ADD_MEMBERSHIP, _DROP_MEMBERSHIP = 270, 1, 2
_ENOUGH = 32768  # the kernel puts no more in one answer (netlink_dump, net/netlink/af_netlink.c)
#: Answers to more requests might not fit into a socket's queue (net.core.rmem_default; each takes a page or two of it).
_AT_A_TIME = 32

#: Ready takes milliseconds; but the kernel's clean-up of earlier networks may hold its lock for seconds.
_READY_LIMIT = 60.0
#: The kernel leaves an event that it does not find urgent for a second (net/core/link_watch.c).
_SETTLE_LIMIT = 3.0


class Netlink:
    """A rtnetlink socket in one namespace; usable from any thread, inside an event loop or not."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE, fileno=fd)
        self._socket.setblocking(True)  # whatever socket.setdefaulttimeout says
        self._lock = threading.RLock()
        #: How many listen to announcements of IPv6 addresses; those that came while something else was read.
        self._listeners = 0
        self._announced: list[bytes] = []
        self._sequence = 0

    def close(self) -> None:
        """Close the socket; may be called twice."""
        self._socket.close()

    def batch(self, requests: Sequence[Request]) -> list[bytes]:
        """Send requests at once; return what the kernel answered to those that read.

        Raises:
            KernelError: The first request that the kernel refused, by name.
        """
        answers: list[bytes] = []
        with self._lock:
            for start in range(0, len(requests), _AT_A_TIME):
                answers += self._batch(requests[start : start + _AT_A_TIME])
        return answers

    def _batch(self, requests: Sequence[Request]) -> list[bytes]:
        answers, failure = self.attempt(requests)
        if failure is not None:
            raise failure
        return answers

    def attempt(self, requests: Sequence[Request]) -> tuple[list[bytes], KernelError | None]:
        """Send a few requests; what was answered, and the first refusal."""
        with self._lock:
            return self._attempt(requests)

    def _attempt(self, requests: Sequence[Request]) -> tuple[list[bytes], KernelError | None]:
        first, last = self._sequence + 1, self._sequence + len(requests)
        self._sequence = last
        frame = bytearray()
        for number, request in enumerate(requests, first):
            start = len(frame)
            frame += request.data
            struct.pack_into("=I", frame, start + 8, number)
            if number == last:
                flags = struct.unpack_from("=H", frame, start + 6)[0]
                struct.pack_into("=H", frame, start + 6, flags | _ACK)
        self._socket.send(frame)
        answers: list[bytes] = []
        failure: KernelError | None = None
        for message in self._messages():
            _, kind, _, number, _ = HEADER.unpack_from(message)
            if first <= number <= last and kind == _NLMSG_ERROR:
                code = -struct.unpack_from("=i", message, HEADER.size)[0]
                if code and failure is None:
                    failure = KernelError(code, f"{requests[number - first].what}: {os.strerror(code)}")
                if number == last:
                    break
            elif first <= number <= last:
                answers.append(message)
            else:
                self._keep(message)
        return answers, failure

    def dump(self, number: int, family: int = 0) -> list[Any]:
        """Every object of one kind, decoded by pyroute2."""
        from pyroute2.netlink.rtnl.marshal import MarshalRtnl

        with self._lock:
            self._sequence += 1
            header = HEADER.pack(HEADER.size + 16, number, _REQUEST | _DUMP, self._sequence, 0)
            self._socket.send(header + bytes([family]) + bytes(15))
            data = b""
            for message in self._messages():
                _, kind, _, sequence, _ = HEADER.unpack_from(message)
                if sequence != self._sequence:
                    self._keep(message)
                    continue
                if kind == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", message, HEADER.size)[0]
                    raise KernelError(code, f"list: {os.strerror(code)}")
                if kind == _NLMSG_DONE:
                    break
                data += message
            return list(MarshalRtnl().parse(data))

    def links(self) -> list[Any]:
        """The interfaces."""
        return self.dump(_GETLINK)

    def addresses(self) -> list[Any]:
        """The addresses of both families."""
        return self.dump(_GETADDR)

    def routes(self) -> list[Any]:
        """The routes of both families, all tables."""
        return self.dump(_GETROUTE)

    def bridge_neighbours(self) -> list[Any]:
        """The MAC addresses that bridges have learned."""
        return self.dump(_GETNEIGH, socket.AF_BRIDGE)

    def forget_lost_neighbours(self, index: int) -> None:
        """Forget neighbours on an interface that did not answer: Linux asks again only a second after it has last
        asked in vain (retrans_time_ms, arp(7)), and packets to them wait for that."""
        lost = [
            message.get_attr("NDA_DST")
            for family in (socket.AF_INET, socket.AF_INET6)
            for message in self.dump(_GETNEIGH, family)
            if message["ifindex"] == index and message["state"] & (_NUD_INCOMPLETE | _NUD_PROBE | _NUD_FAILED)
        ]
        for address in lost:
            with contextlib.suppress(KernelError):  # it has come to an answer, or to its end, meanwhile
                self.batch([delete_neighbour(index, address)])

    def forget_neighbours(self, index: int | None = None) -> None:
        """Forget every neighbour on an interface, or on all; those that somebody has written down stay.

        IPv6 and IPv4: whoever sends next asks anew.
        """
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in self.dump(_GETNEIGH, family):
                if index in (None, message["ifindex"]) and not message["state"] & (_NUD_NOARP | _NUD_PERMANENT):
                    with contextlib.suppress(KernelError):  # it has come to its end meanwhile
                        self.batch([delete_neighbour(message["ifindex"], message.get_attr("NDA_DST"))])

    def _tentative(self, index: int) -> list[tuple[int, bytes]]:
        """The IPv6 addresses of an interface that cannot be used yet, for :meth:`wait_ready`."""
        return [
            (index, socket.inet_pton(socket.AF_INET6, message.get_attr("IFA_ADDRESS")))
            for message in self.dump(_GETADDR, socket.AF_INET6)
            if message["index"] == index and message["flags"] & _IFA_F_TENTATIVE
        ]

    def wait_ready(
        self, indexes: Sequence[int], answers: Sequence[bytes], addresses: Sequence[tuple[int, bytes]]
    ) -> None:
        """Return once the interfaces carry packets and the IPv6 addresses (index, bytes) can be used.

        ``answers`` are what :func:`get_link` brought for the interfaces. Newer kernels have made them ready
        by then; for others the kernel's announcement is waited for. An IPv6 address is announced when its
        duplicate address detection is over and its solicited-node group joined (addrconf_dad_completed,
        net/ipv6/addrconf.c).
        """
        with self._lock:
            waiting = set(indexes) - {index for index in map(running, answers) if index is not None}
            tentative = set(addresses)
            deadline = time.monotonic() + _READY_LIMIT
            arrived, self._announced = self._announced, []
            for message in arrived:
                note(message, waiting, tentative)
            if waiting:
                self._membership(_ADD_MEMBERSHIP, _RTNLGRP_LINK)
                for index in waiting:  # it may have become ready just before we listened
                    self._socket.send(get_link(index).data)
            listens = bool(waiting)
            try:
                while waiting or tentative:
                    self._await(deadline, waiting, tentative)
                    for message in cut(self._receive()):
                        note(message, waiting, tentative)
            finally:
                if listens:
                    self._membership(_DROP_MEMBERSHIP, _RTNLGRP_LINK)

    def wait_forwarding(self, ports: Sequence[int]) -> None:
        """Return once ports of a bridge that runs the spanning tree protocol pass packets, or are blocked for good.

        A port listens and learns before, for the bridge's forward delay each (IEEE 802.1D, 8.4); it is announced when
        that is over (br_forward_delay_timer_expired, net/bridge/br_stp_timer.c).
        """
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

        with self._lock:
            waiting = set(ports)
            deadline = time.monotonic() + _READY_LIMIT
            self._membership(_ADD_MEMBERSHIP, _RTNLGRP_LINK)
            try:
                while True:
                    for answer in self.batch([get_link(index) for index in sorted(waiting)]):
                        message = ifinfmsg(answer)
                        message.decode()
                        if _port_state(message) in _DECIDED:
                            waiting.discard(message["index"])
                    if not waiting:
                        return
                    if not self._wait(max(0.0, deadline - time.monotonic())):
                        raise WaitTimeout(f"ports {sorted(waiting)} do not forward after {_READY_LIMIT:g} s")
                    self._receive()
            finally:
                self._membership(_DROP_MEMBERSHIP, _RTNLGRP_LINK)

    def listen(self) -> None:
        """Have the kernel announce IPv6 addresses, before some are added that :meth:`wait_ready` is to see."""
        with self._lock:
            self._listeners += 1
            if self._listeners == 1:
                self._membership(_ADD_MEMBERSHIP, _RTNLGRP_IPV6_IFADDR)

    def leave(self) -> None:
        """End of :meth:`listen`: what nobody reads any more would fill the socket's queue."""
        with self._lock:
            self._listeners -= 1
            if self._listeners == 0:
                self._membership(_DROP_MEMBERSHIP, _RTNLGRP_IPV6_IFADDR)
                self._announced = []

    def wait_usable(self, index: int) -> None:
        """Return once all IPv6 addresses of an interface can be used."""
        with self._lock:
            self.listen()  # before the look, so that what is not usable yet is announced
            try:
                self.wait_ready([], [], self._tentative(index))
            finally:
                self.leave()

    def settle(self, index: int, *requests: Request) -> None:
        """Send requests, and return once the kernel has worked off what they, and others, have done to an interface.

        Until then it has, or has lost, its carrier, and does not know: IFF_LOWER_UP and IFF_RUNNING differ. Since
        Linux 6.8 reading the interface has the kernel see to it at once; before, its announcement is waited for, a
        second at most.

        Raises:
            KernelError: The kernel refused a request, or the interface is gone.
        """
        with self._lock:
            if not any(map(unsettled, self.batch([*requests, get_link(index)]))):
                return
            deadline = time.monotonic() + _SETTLE_LIMIT
            self._membership(_ADD_MEMBERSHIP, _RTNLGRP_LINK)
            try:
                while any(map(unsettled, self.batch([get_link(index)]))):
                    if not self._wait(max(0.0, deadline - time.monotonic())):
                        return  # a driver that keeps the two apart
            finally:
                self._membership(_DROP_MEMBERSHIP, _RTNLGRP_LINK)

    def add_and_wait(self, request: Request, index: int, address: bytes) -> None:
        """Add an IPv6 address to an interface that is up, and return once it can be used."""
        with self._lock:
            self.listen()
            try:
                self.batch([request])
                self.wait_ready([], [], [(index, address)])
            finally:
                self.leave()

    def _keep(self, message: bytes) -> None:
        """Keep what the kernel announces to a listener while somebody reads something else."""
        if self._listeners and HEADER.unpack_from(message)[1] == _NEWADDR:
            self._announced.append(message)

    def _await(self, deadline: float, waiting: set[int], tentative: set[tuple[int, bytes]]) -> None:
        left = max(0.0, deadline - time.monotonic())
        if not self._wait(left):
            raise WaitTimeout(
                f"not ready after {_READY_LIMIT:g} s: interfaces without carrier {sorted(waiting)}, "
                f"IPv6 addresses not usable {[socket.inet_ntop(socket.AF_INET6, a) for _, a in tentative]}"
            )

    def _wait(self, seconds: float) -> bool:
        poll = select.poll()  # select would refuse a descriptor above 1023
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _membership(self, verb: int, group: int) -> None:
        self._socket.setsockopt(_SOL_NETLINK, verb, group)

    def _receive(self, flags: int = 0) -> bytes:
        try:
            return self._socket.recv(_ENOUGH, flags)
        except BlockingIOError:
            raise
        except OSError as error:  # ENOBUFS: there was more than the socket's queue takes
            raise KernelError(error.errno, f"read what the kernel answers: {error.strerror}") from None

    def _messages(self) -> Iterator[bytes]:
        while True:
            try:
                data = self._receive(socket.MSG_DONTWAIT)
            except BlockingIOError:  # rare: the kernel answers before the send returns
                if not self._wait(_READY_LIMIT):
                    raise WaitTimeout(
                        f"the kernel did not answer a netlink request within {_READY_LIMIT:g} s"
                    ) from None
                continue
            yield from cut(data)


def _port_state(message: Any) -> int | None:
    info = message.get_attr("IFLA_LINKINFO")
    of_port = info.get_attr("IFLA_INFO_SLAVE_DATA") if info else None
    state: int | None = of_port.get_attr("IFLA_BRPORT_STATE") if of_port else None
    return state
