"""Forgets the connections that the kernel tracks in a namespace: what NAT and stateful filters go by."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

from ._errors import KernelError, hide_own_frames
from ._namespace import Namespace

__all__ = ["flush_connections"]

__tracebackhide__ = hide_own_frames

# linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nfnetlink_conntrack.h
_NETLINK_NETFILTER, _REQUEST_ACK = 12, 0x1 | 0x4
_SUBSYSTEM_CONNTRACK, _DELETE = 1, 2
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


def _ask(namespace: Namespace) -> int:
    """Ask the kernel; return what it answers, 0 for done."""
    try:
        _, (fd,) = namespace.broker.request(
            "socket", int(socket.AF_NETLINK), int(socket.SOCK_RAW), _NETLINK_NETFILTER, fds=[namespace.fileno()]
        )
    except KernelError as error:
        return error.errno or errno.EPROTONOSUPPORT
    with socket.socket(fileno=fd) as asking:
        asking.settimeout(60)  # the kernel answers before the send returns
        asking.send(_DELETE_ALL)
        return -int(struct.unpack_from("=i", asking.recv(8192), 16)[0])


def _tracked(namespace: Namespace) -> int:
    """How many connections the kernel says that it tracks there; 0 where it tracks none at all."""
    with contextlib.suppress(KernelError):
        answer, _ = namespace.broker.request("sysctl", "netfilter/nf_conntrack_count", None, fds=[namespace.fileno()])
        return int(bytes(answer))
    return 0
