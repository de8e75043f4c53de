"""Handles to the interfaces of a host, and what the kernel says of them at one moment."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import _requests
from ._errors import KernelError, NetnsError

if TYPE_CHECKING:
    from ._namespace import Namespace

__all__ = ["Interface", "InterfaceState"]


@dataclass(frozen=True)
class InterfaceState:
    """What ``ip -d -s link`` would show of an interface, read at one moment.

    Attributes:
        index: The kernel's number for it, unique in its namespace.
        kind: ``veth``, ``bridge``, ``tun`` …; empty for the loopback interface.
        mac: Hardware address.
        mtu: In bytes.
        up: Whether it is switched on (IFF_UP).
        carrier: Whether the other end is there and on (IFF_LOWER_UP).
        operstate: RFC 2863: ``UP``, ``DOWN``, ``LOWERLAYERDOWN``, ``UNKNOWN`` …
        peer_index: For a veth end, the index of the other end, in that end's namespace; else None.
        master: Index of the bridge that it is a port of, or None.
        rx_packets, tx_packets: Packets in and out since it was made.
    """

    name: str
    index: int
    kind: str
    mac: str
    mtu: int
    up: bool
    carrier: bool
    operstate: str
    peer_index: int | None
    master: int | None
    rx_packets: int
    tx_packets: int
    #: For a bridge: its id and whether it runs the spanning tree protocol.
    bridge_id: str | None = None
    stp: bool | None = None


class Interface:
    """An interface of a host, by name."""

    def __init__(self, namespace: Namespace, name: str, index: int) -> None:
        self._namespace = namespace
        self.name = name
        self.index = index

    def state(self) -> InterfaceState:
        """Read it from the kernel.

        Raises:
            NetnsError: It is gone.
        """
        try:
            # Has the kernel work off a change that it has not told yet, so that carrier and operstate agree.
            self._namespace.netlink.batch([_requests.get_link(self.index)])
        except KernelError as error:
            if error.errno != errno.ENODEV:
                raise
        for state in read_states(self._namespace):
            if state.index == self.index:
                return state
        raise NetnsError(f"interface {self.name} is gone")

    def up(self) -> None:
        """Switch it on."""
        self._set(up=True)

    def down(self) -> None:
        """Switch it off; the other end of a veth pair loses its carrier.

        Linux takes the IPv6 addresses of an interface away with that, unless
        ``host.sysctl("ipv6.conf.eth0.keep_addr_on_down", 1)`` was called before (ip-sysctl.rst).
        """
        self._set(up=False)

    def _set(self, *, up: bool) -> None:
        request = _requests.set_link(self.index, up=up, what=f"set {self.name} {'up' if up else 'down'}")
        # Reading it back in the same batch has the kernel work off the link event before we return.
        self._namespace.netlink.batch([request, _requests.get_link(self.index)])

    def __repr__(self) -> str:
        return f"<Interface {self.name} index {self.index}>"


def read_states(namespace: Namespace) -> list[InterfaceState]:
    """Every interface of a namespace, in the order of their indexes."""
    return sorted((_state(message) for message in namespace.netlink.links()), key=lambda state: state.index)


def _state(message: Any) -> InterfaceState:
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info else None) or ""
    data = info.get_attr("IFLA_INFO_DATA") if info and kind == "bridge" else None
    counters = message.get_attr("IFLA_STATS64") or {}
    return InterfaceState(
        name=message.get_attr("IFLA_IFNAME"),
        index=message["index"],
        kind=kind,
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU") or 0,
        up=bool(message["flags"] & 0x1),
        carrier=bool(message["flags"] & 0x10000),
        operstate=message.get_attr("IFLA_OPERSTATE") or "UNKNOWN",
        peer_index=message.get_attr("IFLA_LINK") if kind == "veth" else None,
        master=message.get_attr("IFLA_MASTER"),
        rx_packets=counters.get("rx_packets", 0),
        tx_packets=counters.get("tx_packets", 0),
        bridge_id=None if data is None else _bridge_id(data.get_attr("IFLA_BR_BRIDGE_ID")),
        stp=None if data is None else bool(data.get_attr("IFLA_BR_STP_STATE")),
    )


def _bridge_id(value: Any) -> str | None:
    """A bridge's id as ``brctl show`` writes it: priority, then MAC (IEEE 802.1D)."""
    if value is None:
        return None
    return f"{socket.ntohs(value['prio']):04x}.{value['addr'].replace(':', '')}"
