"""The only pyroute2: rtnetlink requests as bytes, sent in one batch over a socket that lives in a namespace.

pyroute2 encodes and decodes the messages; its own sockets are not used, since they raise inside a running
event loop and in a second thread. The requests of a network are the same bytes each time but for sequence
numbers and a descriptor, so each is encoded once in a process and patched.

Requests of one batch go in one send. Only the last asks for an acknowledgement: the kernel works them off in
order and reports a refused one unasked (netlink(7)).
"""

from __future__ import annotations

import functools
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ._errors import KernelError, WaitTimeout

__all__ = [
    "End",
    "Netlink",
    "Request",
    "add_address",
    "add_bridge",
    "add_route",
    "add_veth",
    "delete_link",
    "delete_route",
    "get_link",
    "move_link",
    "set_link",
]

# linux/netlink.h, linux/rtnetlink.h, linux/if.h, linux/if_addr.h
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _DUMP, _EXCL_CREATE = 0x1, 0x4, 0x300, 0x600
_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _GETADDR = 16, 17, 18, 20, 22
_NEWROUTE, _DELROUTE, _GETROUTE, _GETNEIGH = 24, 25, 26, 30
_RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST = 254, 4, 1
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_IFA_F_NODAD, _IFA_F_TENTATIVE = 0x02, 0x40
_RTNLGRP_LINK, _RTNLGRP_IPV6_IFADDR = 1, 9
_SOL_NETLINK, _ADD_MEMBERSHIP, _DROP_MEMBERSHIP = 270, 1, 2
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, kind, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ENOUGH = 32768  # the kernel puts no more in one answer (netlink_dump, net/netlink/af_netlink.c)
#: Answers to more requests might not fit into a socket's queue (net.core.rmem_default; each takes a page or two of it).
_AT_A_TIME = 32
_AN_FD = 0x0DE5C217  # stands for a descriptor until the request is sent

#: Ready takes milliseconds; but the kernel's clean-up of earlier networks may hold its lock for seconds.
_READY_LIMIT = 60.0


class Request(NamedTuple):
    """One encoded message, and the words that an error about it begins with."""

    data: bytes
    what: str


def _encode(kind: str, number: int, how: int, what: str, /, **fields: object) -> Request:
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    message = {"link": ifinfmsg, "address": ifaddrmsg, "route": rtmsg}[kind]()
    for name, value in fields.items():
        message[name] = value
    message["header"] = {"type": number, "flags": _REQUEST | how, "sequence_number": 0, "pid": 0}
    message.encode()
    return Request(bytes(message.data), what)


@functools.lru_cache(4096)
def add_bridge(name: str, index: int) -> Request:
    """A bridge, up; STP stays off, which is the kernel's default."""
    attributes = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge")]})]
    return _encode(
        "link",
        _NEWLINK,
        _EXCL_CREATE,
        f"create bridge {name}",
        index=index,
        flags=_IFF_UP,
        change=_IFF_UP,
        attrs=attributes,
    )


@dataclass(frozen=True)
class End:
    """One end of a veth pair, as the kernel is to make it."""

    name: str
    index: int
    mac: str
    master: int | None = None


@functools.lru_cache(4096)
def _veth_template(near: End, far: End, mtu: int) -> Request:
    # One queue: veth has one per processor by default, and setting those up waits for RCU.
    common = [("IFLA_MTU", mtu), ("IFLA_NUM_TX_QUEUES", 1), ("IFLA_NUM_RX_QUEUES", 1)]
    peer = {
        "index": far.index,
        "attrs": [("IFLA_IFNAME", far.name), ("IFLA_ADDRESS", far.mac), *common, ("IFLA_NET_NS_FD", _AN_FD)],
    }
    data = {"attrs": [("VETH_INFO_PEER", peer)]}
    attributes: list[tuple[str, Any]] = [("IFLA_IFNAME", near.name), ("IFLA_ADDRESS", near.mac), *common]
    if near.master is not None:
        attributes.append(("IFLA_MASTER", near.master))
    attributes.append(("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}))
    what = f"create veth pair {near.name} - {far.name}"
    # Up on the near end only: the kernel refuses to open an end whose peer is not tied to it yet.
    return _encode(
        "link",
        _NEWLINK,
        _EXCL_CREATE,
        what,
        index=near.index,
        flags=_IFF_UP,
        change=_IFF_UP,
        attrs=attributes,
    )


def _with_fd(template: Request, fd: int) -> Request:
    return Request(template.data.replace(struct.pack("=I", _AN_FD), struct.pack("=I", fd)), template.what)


def add_veth(near: End, far: End, mtu: int, far_namespace: int) -> Request:
    """Both ends of a veth pair in place, the near one up: one message, no move, no rename."""
    return _with_fd(_veth_template(near, far, mtu), far_namespace)


@functools.lru_cache(4096)
def set_link(index: int, *, up: bool, what: str) -> Request:
    """An interface up or down."""
    return _encode("link", _NEWLINK, 0, what, index=index, flags=_IFF_UP if up else 0, change=_IFF_UP)


@functools.lru_cache(4096)
def delete_link(index: int) -> Request:
    """An interface no longer; of a veth pair the other end goes, too."""
    return _encode("link", _DELLINK, 0, f"delete interface {index}", index=index)


def move_link(index: int, name: str, namespace: int) -> Request:
    """An existing interface into another namespace; takes the kernel a grace period (some 15 ms)."""
    template = _encode("link", _NEWLINK, 0, f"move {name}", index=index, attrs=[("IFLA_NET_NS_FD", _AN_FD)])
    return _with_fd(template, namespace)


@functools.lru_cache(4096)
def get_link(index: int) -> Request:
    """One interface. By index, not as a dump: then Linux works off its pending link event first, and the
    interface passes its first packet (rtnl_getlink calls linkwatch_sync_dev, net/core/rtnetlink.c)."""
    return _encode("link", _GETLINK, 0, f"read interface {index}", index=index)


@functools.lru_cache(4096)
def add_address(index: int, address: str, prefix: int) -> Request:
    """An address; an IPv6 one without duplicate address detection."""
    six = ":" in address
    attributes: list[tuple[str, Any]] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    flags = _IFA_F_NODAD if six else 0
    family = socket.AF_INET6 if six else socket.AF_INET
    return _encode(
        "address",
        _NEWADDR,
        _EXCL_CREATE,
        f"add address {address}/{prefix}",
        index=index,
        family=int(family),
        prefixlen=prefix,
        flags=flags,
        attrs=attributes,
    )


@functools.lru_cache(4096)
def add_route(version: int, destination: str | None, via: str) -> Request:
    """A route by way of a neighbour; ``destination`` None is the default route."""
    return _route("add", version, destination, via)


@functools.lru_cache(4096)
def delete_route(version: int, destination: str | None, via: str) -> Request:
    """That route no longer."""
    return _route("delete", version, destination, via)


def _route(verb: str, version: int, destination: str | None, via: str) -> Request:
    attributes: list[tuple[str, Any]] = [("RTA_GATEWAY", via)]
    address, _, length = (destination or "/0").partition("/")
    if address:
        attributes.insert(0, ("RTA_DST", address))
    return _encode(
        "route",
        *((_NEWROUTE, _EXCL_CREATE) if verb == "add" else (_DELROUTE, 0)),
        f"{verb} route {destination or 'default'} via {via}",
        family=int(socket.AF_INET6 if version == 6 else socket.AF_INET),
        dst_len=int(length),
        table=_RT_TABLE_MAIN,
        proto=_RTPROT_STATIC,
        type=_RTN_UNICAST,
        attrs=attributes,
    )


class Netlink:
    """A rtnetlink socket in one namespace; usable from any thread, inside an event loop or not."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE, fileno=fd)
        self._socket.setblocking(True)  # whatever socket.setdefaulttimeout says
        self._lock = threading.Lock()
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
            _, kind, _, number, _ = _HEADER.unpack_from(message)
            if first <= number <= last and kind == _NLMSG_ERROR:
                code = -struct.unpack_from("=i", message, _HEADER.size)[0]
                if code and failure is None:
                    failure = KernelError(code, f"{requests[number - first].what}: {os.strerror(code)}")
                if number == last:
                    break
            elif first <= number <= last:
                answers.append(message)
            else:
                self._announced.append(message)
        if failure is not None:
            raise failure
        return answers

    def dump(self, number: int, family: int = 0) -> list[Any]:
        """Every object of one kind, decoded by pyroute2."""
        from pyroute2.netlink.rtnl.marshal import MarshalRtnl

        with self._lock:
            self._sequence += 1
            header = _HEADER.pack(_HEADER.size + 16, number, _REQUEST | _DUMP, self._sequence, 0)
            self._socket.send(header + bytes([family]) + bytes(15))
            data = b""
            for message in self._messages():
                _, kind, _, sequence, _ = _HEADER.unpack_from(message)
                if sequence != self._sequence:
                    continue
                if kind == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", message, _HEADER.size)[0]
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
            waiting = set(indexes) - {index for index in map(_running, answers) if index is not None}
            if waiting:
                self._membership(_ADD_MEMBERSHIP, _RTNLGRP_LINK)
                for index in waiting:  # it may have become ready just before we listened
                    self._socket.send(get_link(index).data)
            tentative = set(addresses)
            deadline = time.monotonic() + _READY_LIMIT
            arrived, self._announced = self._announced, []
            for message in arrived:
                _note(message, waiting, tentative)
            while waiting or tentative:
                self._await(deadline, waiting, tentative)
                for message in _cut(self._socket.recv(_ENOUGH)):
                    _note(message, waiting, tentative)
            self._membership(_DROP_MEMBERSHIP, _RTNLGRP_IPV6_IFADDR)

    def listen(self) -> None:
        """Have the kernel announce IPv6 addresses again, before some are added that :meth:`wait_ready` is to see.

        A new socket listens (:mod:`pytest_netns._helper`); the first wait is the end of that.
        """
        self._membership(_ADD_MEMBERSHIP, _RTNLGRP_IPV6_IFADDR)

    def add_and_wait(self, request: Request, index: int, address: bytes) -> None:
        """Add an IPv6 address to an interface that is up, and return once it can be used."""
        self.listen()
        self.batch([request])
        self.wait_ready([], [], [(index, address)])

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

    def _messages(self) -> Iterator[bytes]:
        while True:
            try:
                data = self._socket.recv(_ENOUGH, socket.MSG_DONTWAIT)
            except BlockingIOError:  # rare: the kernel answers before the send returns
                if not self._wait(_READY_LIMIT):
                    raise WaitTimeout(
                        f"the kernel did not answer a netlink request within {_READY_LIMIT:g} s"
                    ) from None
                continue
            yield from _cut(data)


def _cut(data: bytes) -> Iterator[bytes]:
    while len(data) >= _HEADER.size:
        length = _HEADER.unpack_from(data)[0]
        yield data[:length]
        data = data[(length + 3) & ~3 :]


def _running(message: bytes) -> int | None:
    """The index of the interface if this says that it is up and passes packets (operstate UP)."""
    if _HEADER.unpack_from(message)[1] != _NEWLINK:
        return None
    _, _, index, flags, _ = _LINK.unpack_from(message, _HEADER.size)
    return int(index) if flags & _IFF_RUNNING and flags & _IFF_UP else None


def _note(message: bytes, waiting: set[int], tentative: set[tuple[int, bytes]]) -> None:
    """Strike out what a message from the kernel shows to be ready."""
    if _HEADER.unpack_from(message)[1] == _NEWADDR:
        _, _, flags, _, index = _ADDRESS.unpack_from(message, _HEADER.size)
        if not flags & _IFA_F_TENTATIVE:
            tentative -= {(i, address) for i, address in tentative if i == index and address in message}
    else:
        index = _running(message)
        if index is not None:
            waiting.discard(index)
