"""Has a lab that runs be as new, for whoever shares one between tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from . import _requests
from ._bridge import Bridge
from ._conntrack import flush_connections
from ._errors import hide_own_frames
from ._host import Host
from ._interfaces import count_anew
from ._plan import BRIDGE_INDEX

__all__ = ["reset"]

__tracebackhide__ = hide_own_frames


def reset(hosts: Iterable[Host], bridges: Iterable[Bridge]) -> None:
    """Forget what they have learned from packets, switch on what the lab has made, and count from now on."""
    places = [*hosts, *bridges]
    _switch_on(hosts, bridges)
    for host in hosts:
        flush_nat = getattr(host, "flush_nat", None)
        if flush_nat is not None and getattr(host, "nat", None) is not None:
            flush_nat()
        flush_connections(host.namespace)
        with contextlib.suppress(OSError):  # a masked /proc
            host.sysctl("ipv4/route/flush", -1)  # path MTUs and redirects (ip-sysctl.rst)
    for _ in range(2):  # as long as one is known, a look for it can make another known
        for host in hosts:
            host.namespace.netlink.forget_neighbours()
    for bridge in bridges:
        bridge.namespace.netlink.batch([_requests.flush_learned(BRIDGE_INDEX)])
    for place in places:
        count_anew(place.namespace)


def _switch_on(hosts: Iterable[Host], bridges: Iterable[Bridge]) -> None:
    for bridge in bridges:
        for name, state in {bridge.name: bridge.state, **bridge.ports}.items():
            if not state.up:
                bridge[name].up()
    for host in hosts:
        for name, state in host.interfaces.items():
            if not state.up and (name == "lo" or host._is_planned(name)):
                host[name].up()
