"""Forgets the connections that the kernel tracks in a namespace: what NAT and stateful filters go by."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping

from ._errors import KernelError, hide_own_frames
from ._namespace import Namespace

__all__ = ["flush_connections", "forget_translated"]

__tracebackhide__ = hide_own_frames

# linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nfnetlink_conntrack.h
_NETLINK_NETFILTER, _REQUEST_ACK = 12, 0x1 | 0x4
_SUBSYSTEM_CONNTRACK, _GET, _DELETE = 1, 1, 2
_REQUEST_DUMP, _ERROR, _DONE = 0x1 | 0x300, 2, 3
_HEADER = struct.Struct("=IHHIIBBH")  # nlmsghdr, nfgenmsg
_ORIGINAL, _REPLY = 1, 2  # CTA_TUPLE_ORIG, CTA_TUPLE_REPLY
#: nfgenmsg without a family, and no attribute that says which: all of them (ctnetlink_del_conntrack).
_DELETE_ALL = struct.pack("=IHHIIBBH", 20, _SUBSYSTEM_CONNTRACK << 8 | _DELETE, _REQUEST_ACK, 1, 0, 0, 0, 0)
#: Where the kernel has no such socket, or nobody behind it.
_NOT_THERE = (errno.EPROTONOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP)


def flush_connections(namespace: Namespace) -> None:
    """Forget every connection that is tracked in a namespace; they are gone when this returns.

    Where the kernel tracks none there is nothing to forget.

    Raises:
        KernelError: It tracks some, and does not let them go.

    Source: ``conntrack -F``, conntrack(8); net/netfilter/nf_conntrack_netlink.c.
    """
    code = _ask(namespace)
    if code and (code not in _NOT_THERE or _tracked(namespace)):
        cure = "; type: sudo modprobe nf_conntrack_netlink" if code in _NOT_THERE else ""
        raise KernelError(code, f"forget tracked connections: {os.strerror(code)}{cure}")


def forget_translated(namespace: Namespace, ports: Mapping[tuple[int, int], tuple[str, int]]) -> None:
    """Forget connections that leave by these ports, by number of protocol and port, but those of who is named.

    Where the kernel does not tell of connections, they stay. Source: ``conntrack -D``, conntrack(8).
    """
    try:
        asking = _socket(namespace)
    except KernelError:
        return
    with asking:
        asking.send(_request(_GET, _REQUEST_DUMP))
        for original in list(_originals(asking, ports)):
            asking.send(_request(_DELETE, _REQUEST_ACK, original))
            asking.recv(8192)  # that it has ended by itself meanwhile is as well


def _request(kind: int, flags: int, attributes: bytes = b"") -> bytes:
    size = _HEADER.size + len(attributes)
    return _HEADER.pack(size, _SUBSYSTEM_CONNTRACK << 8 | kind, flags, 1, 0, socket.AF_INET, 0, 0) + attributes


def _originals(asking: socket.socket, ports: Mapping[tuple[int, int], tuple[str, int]]) -> Iterator[bytes]:
    """Of such connections, what tells each: the attribute with its first packet's addresses and ports."""
    while True:
        data = asking.recv(1 << 16)
        while data:
            size, kind = struct.unpack_from("=IH", data)
            message, data = data[_HEADER.size : size], data[size + 3 & ~3 :]
            if kind in (_ERROR, _DONE):
                return
            found = _attributes(message)
            protocol, source, _, inner, _ = _tuple(found[_ORIGINAL])
            _, _, outside, _, port = _tuple(found[_REPLY])
            owner = ports.get((protocol, port))
            if outside != source and owner not in (None, (source, inner)):
                yield struct.pack("=HH", 4 + len(found[_ORIGINAL]), 0x8000 | _ORIGINAL) + found[_ORIGINAL]


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:size]
        data = data[size + 3 & ~3 :]
    return found


def _tuple(data: bytes) -> tuple[int, str, str, int, int]:
    """Protocol, source, destination, and their ports; 0 where there are none."""
    parts = _attributes(data)  # CTA_TUPLE_IP, CTA_TUPLE_PROTO
    ends, ways = _attributes(parts[1]), _attributes(parts[2])
    source, target = (socket.inet_ntop(socket.AF_INET, ends[number]) for number in (1, 2))
    near, far = (int.from_bytes(ways.get(number, b""), "big") for number in (2, 3))
    return ways[1][0], source, target, near, far


def _ask(namespace: Namespace) -> int:
    """Ask the kernel; return what it answers, 0 for done."""
    try:
        asking = _socket(namespace)
    except KernelError as error:
        return error.errno or errno.EPROTONOSUPPORT
    with asking:
        asking.send(_DELETE_ALL)
        return -int(struct.unpack_from("=i", asking.recv(8192), 16)[0])


def _socket(namespace: Namespace) -> socket.socket:
    net = namespace.fileno()
    _, (fd,) = namespace.broker.request(
        "socket", int(socket.AF_NETLINK), int(socket.SOCK_RAW), _NETLINK_NETFILTER, fds=[net]
    )
    asking = socket.socket(fileno=fd)
    asking.settimeout(60)  # the kernel answers before the send returns
    return asking


def _tracked(namespace: Namespace) -> int:
    """How many connections the kernel says that it tracks there; 0 where it tracks none at all."""
    with contextlib.suppress(KernelError):
        answer, _ = namespace.broker.request("sysctl", "netfilter/nf_conntrack_count", None, fds=[namespace.fileno()])
        return int(bytes(answer))
    return 0
