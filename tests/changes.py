"""What the kernel announces in a host, to wait for: who listens first and looks then misses nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable

from pace import seconds

from pytest_netns import Bridge, Host

__all__ = ["LINKS", "ROUTES", "Changes"]

#: linux/rtnetlink.h: RTMGRP_LINK, RTMGRP_IPV4_ROUTE
LINKS, ROUTES = 0x1, 0x40


class Changes:
    """Changes of one kind in a host or bridge: ``with Changes(host, ROUTES) as changes: … changes.wait_until(…)``."""

    def __init__(self, place: Host | Bridge, kind: int) -> None:
        self._socket = place.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(seconds(50))
        self._socket.bind((0, kind))

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Look, and look again at each change."""
        while not condition():
            self._socket.recv(65536)

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
