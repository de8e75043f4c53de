"""Looks into a bridge's namespace without anybody noticing: over the socket that its lab has there.

Whoever asks the helper for a way in, or the bridge for its namespace, has it kept for no later lab.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable

from pace import seconds

from pytest_netns import Bridge, Lab
from pytest_netns._netlink import _ADD_MEMBERSHIP, _RTNLGRP_LINK, Netlink
from pytest_netns._plan import BRIDGE_INDEX
from pytest_netns._pool import _IFLA_MASTER, _attributes

__all__ = ["MULTICAST", "Peephole", "bridge_of", "inode"]

MULTICAST = 26  # RTNLGRP_MDB

_IFLA_OPERSTATE, _UP = 16, b"\x06"  # linux/if_link.h, linux/if.h
_DONE, _GETLINK, _GETNEIGH, _GETMDB = 3, 18, 30, 86  # linux/rtnetlink.h


def bridge_of(lab: Lab) -> Bridge:
    """The only one that it has."""
    (bridge,) = lab.bridges.values()
    return bridge


def inode(lab: Lab) -> int:
    """Of the namespace of a lab's bridge."""
    lab.build()
    namespace = bridge_of(lab)._namespace
    assert namespace is not None
    return namespace.id


class Peephole:
    """Into the namespace of a bridge, also when its lab is closed."""

    def __init__(self, bridge: Bridge) -> None:
        assert bridge._namespace is not None
        # Its own number for the answers' sake: nobody else speaks while we look.
        self._netlink = Netlink(os.dup(bridge._namespace.netlink._socket.fileno()))
        #: Whether something was announced while we looked.
        self._overheard = False

    def wait_until_alone(self) -> None:
        """Return when the bridge has no port left; its lab is at its end by now."""
        self.wait_until(lambda: not any(_IFLA_MASTER in _attributes(link) for link in self._of(_GETLINK, 0)))

    def wait_until_up(self) -> None:
        """Return when the bridge passes packets, and its ports do; until then the kernel has yet to say so."""
        self.wait_until(lambda: all(attributes[_IFLA_OPERSTATE] == _UP for attributes in self._bridge_and_ports()))

    def _bridge_and_ports(self) -> list[dict[int, bytes]]:
        links = [(message, _attributes(message)) for message in self._of(_GETLINK, 0)]
        index = struct.pack("=i", BRIDGE_INDEX)
        return [attributes for message, attributes in links if index in (message[20:24], attributes.get(_IFLA_MASTER))]

    def wait_until(self, condition: Callable[[], bool], group: int = _RTNLGRP_LINK) -> None:
        """Look, and look again whenever the kernel announces something of that kind."""
        self._netlink._membership(_ADD_MEMBERSHIP, group)
        deadline = time.monotonic() + seconds(60)
        while not condition():
            if self._overheard:  # in the midst of the look, which may not have seen it
                self._overheard = False
                continue
            assert self._netlink._wait(deadline - time.monotonic()), self.links()
            self._netlink._receive()

    def links(self) -> bytes:
        """What the kernel tells of all interfaces."""
        return b"".join(self._of(_GETLINK, 0))

    def multicast(self) -> bytes:
        """What it tells of the groups that are listened to."""
        return b"".join(self._of(_GETMDB, socket.AF_BRIDGE))

    def learned(self) -> bytes:
        """What it tells of the hardware addresses behind the ports."""
        return b"".join(self._of(_GETNEIGH, socket.AF_BRIDGE))

    def _of(self, kind: int, family: int) -> list[bytes]:
        """All that there is of a kind, a message each."""
        own = self._netlink._socket
        own.send(struct.pack("=IHHIIB15x", 32, kind, 0x301, 0x5EE, 0, family))
        found: list[bytes] = []
        while True:
            data = own.recv(65536)
            while data:
                length, what, _, number = struct.unpack_from("=IHHI", data)
                if number != 0x5EE:
                    self._overheard = True
                elif what == _DONE:
                    return found
                else:
                    found.append(data[:length])
                data = data[(length + 3) & ~3 :]

    def close(self) -> None:
        """Let go."""
        self._netlink.close()

    def __enter__(self) -> Peephole:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
