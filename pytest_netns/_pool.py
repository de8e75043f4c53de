"""Bridges that labs are done with, kept for later labs: the helper's part.

To destroy a bridge takes the kernel a grace period of RCU, some 15 ms, with the lock held that everything needs that
makes or changes an interface (br_multicast_dev_del, net/bridge/br_multicast.c). So one that nobody but its lab has had
to do with is not destroyed. It is in quarantine first, for its ports go with the hosts of its lab, in the background;
and a host whose namespace something still holds may go on sending. As long as a port is left, it stays there, and
nobody waits for it: whoever needs a bridge meanwhile gets a new one.

What is handed out is as new: no ports, so nothing that was learned behind one; and off, which ends what else there is
(timers of queriers and of multicast routers: br_multicast_stop). Whoever takes it switches it on.

Not kept is a bridge in whose namespace anybody has asked for anything: a socket, a setting, a program, a call. The
test process tells of what it has done itself, and the helper knows of all others.
"""

from __future__ import annotations

import _socket
import os
import struct

from . import _kernel

__all__ = ["Pool"]

#: How many are kept of a kind, and of all; each takes the kernel some 300 KiB. Between its lab's end and that of its
#: ports lie a few tenths of a second.
_MOST_ALIKE, _MOST = 48, 96
#: How many are looked at for one that is wanted: the longest there are out of quarantine first, if any is.
_LOOKS = 2

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, kind, index, flags, change
_ERROR, _DONE, _NEWLINK, _GETLINK = 2, 3, 16, 18
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_IFF_UP = 0x1
_IFLA_IFNAME, _IFLA_MASTER, _IFLA_STATS64 = 3, 10, 23
_ENOUGH = 32768


class Pool:
    """Bridges by what they are like: the request that has made them."""

    def __init__(self) -> None:
        #: Inodes of namespaces of bridges in which nobody but their lab has been.
        self.untouched: set[int] = set()
        self.kept: list[tuple[bytes, int]] = []

    def touch(self, namespace: int) -> None:
        """Somebody enters it."""
        if self.untouched:
            self.untouched.discard(os.fstat(namespace).st_ino)

    def add(self, namespace: int) -> None:
        """A new one, for a bridge that could be kept later."""
        self.untouched.add(os.fstat(namespace).st_ino)

    def keep(self, like: bytes, namespace: int) -> None:
        """Its lab is at its end; the descriptor stays the caller's."""
        inode = os.fstat(namespace).st_ino
        if inode not in self.untouched:
            return
        self.untouched.discard(inode)
        if sum(kind == like for kind, _ in self.kept) >= _MOST_ALIKE:
            return
        self.kept.append((like, os.dup(namespace)))
        if len(self.kept) > _room():
            os.close(self.kept.pop(0)[1])

    def take(self, like: bytes, base: int) -> tuple[int, int, tuple[int, int]] | None:
        """A bridge such as this request makes, off: a rtnetlink socket in its namespace, a descriptor of that, and how
        many packets the bridge has received and sent so far; None if there is none. The caller may be elsewhere then.

        ``base``: a namespace that has what drivers have in each.
        """
        for one in [one for one in self.kept if one[0] == like][:_LOOKS]:
            self.kept.remove(one)
            try:
                taken = _try(*one, base)
            except OSError:  # out of descriptors, or no namespace any more that we could use
                os.close(one[1])
                return None
            if taken is not None:
                self.add(one[1])
                return taken
            self.kept.append(one)
        return None

    def clear(self) -> None:
        """Let all go, where the machine is out of something."""
        while self.kept:
            os.close(self.kept.pop()[1])


def _room() -> int:
    """No more than a part of the descriptors that we may have open."""
    limit = os.sysconf("SC_OPEN_MAX")
    return _MOST if limit < 0 else min(_MOST, limit // 8)


def _try(like: bytes, namespace: int, base: int) -> tuple[int, int, tuple[int, int]] | None:
    _enter(namespace)
    index = _LINK.unpack_from(like, _HEADER.size)[2]
    # Not asked of rtnetlink, whose lock is held while ports go, by whoever ends them. One that is about to go may be
    # missing here, and has gone when that lock is ours, for the next request.
    others = _names() - {b"lo", _attributes(like)[_IFLA_IFNAME].rstrip(b"\0")}
    netlink = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_DGRAM, 0)
    if others and not _are_of_drivers(others, netlink, base):  # ports, in most cases
        netlink.close()
        return None
    netlink.send(
        _message(_NEWLINK, _ACK, _LINK.pack(0, 0, index, 0, _IFF_UP))
        + _message(_GETLINK, _ACK, _LINK.pack(0, 0, index, 0, 0))
    )
    _until_the_end(netlink)
    (bridge,) = _until_the_end(netlink)
    return netlink.detach(), namespace, struct.unpack_from("=QQ", _attributes(bridge)[_IFLA_STATS64])


def _are_of_drivers(names: set[bytes], netlink: _socket.socket, base: int) -> bool:
    """Whether these are interfaces that drivers have in every namespace: gre0, sit0 …"""
    _enter(base)
    if not names <= _names():
        return False
    netlink.send(_message(_GETLINK, _DUMP, _LINK.pack(0, 0, 0, 0, 0)))
    for message in _until_the_end(netlink):
        attributes = _attributes(message)
        flags = _LINK.unpack_from(message, _HEADER.size)[3]
        # A port is nobody else's, nor is what somebody has switched on.
        if attributes[_IFLA_IFNAME].rstrip(b"\0") in names and (flags & _IFF_UP or _IFLA_MASTER in attributes):
            return False
    return True


def _enter(namespace: int) -> None:
    _kernel.setns(namespace, _kernel.CLONE_NEWNET, "network namespace")


def _names() -> set[bytes]:
    """The interfaces of the namespace that we are in."""
    with open("/proc/thread-self/net/dev", "rb") as file:
        return {line.partition(b":")[0].strip() for line in file if b":" in line}


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST, 1, 0) + body


def _until_the_end(netlink: _socket.socket) -> list[bytes]:
    """The messages of an answer, but the last, which says that it is that."""
    messages: list[bytes] = []
    while True:
        data = netlink.recv(_ENOUGH)
        while len(data) >= _HEADER.size:
            length, kind, _, _, _ = _HEADER.unpack_from(data)
            if kind in (_ERROR, _DONE):
                code = -struct.unpack_from("=i", data, _HEADER.size)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                return messages
            messages.append(data[:length])
            data = data[(length + 3) & ~3 :]


def _attributes(message: bytes) -> dict[int, bytes]:
    found, position = {}, _HEADER.size + _LINK.size
    while position + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, position)
        found[kind] = message[position + 4 : position + length]
        position += max(4, (length + 3) & ~3)
    return found
