"""Handles to the interfaces of a host, and what the kernel says of them at one moment."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from . import _answers, _requests
from ._checks import check_mtu
from ._errors import KernelError, NetnsError, PlanError, hide_own_frames
from ._plan import AUTO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._inside import Inside
    from ._namespace import Namespace
    from ._requests import Request

__all__ = ["Interface", "InterfaceState", "Surroundings", "count_anew", "read_states"]

__tracebackhide__ = hide_own_frames


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
        rx_packets, tx_packets: Packets in and out since it was made, or since ``lab.reset()``.
        addresses: IPv4 and IPv6 addresses with prefix lengths, whoever has given them.
        bridge_id, stp: For a bridge: its id, and whether it runs the spanning tree protocol.
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
    addresses: tuple[str, ...] = ()
    bridge_id: str | None = None
    stp: bool | None = None


class Surroundings(Protocol):
    """What a lab knows of an interface that it has made."""

    def sleeps(self, asleep: bool) -> None:
        """It has been switched off, or on."""

    def peer(self) -> tuple[Namespace, int] | None:
        """The other end of its veth pair: where it is, and its index there."""

    def wait_forwarding(self) -> None:
        """Return once a bridge that runs the spanning tree protocol has decided whether its port passes packets."""

    def neighbours(self) -> Sequence[tuple[Namespace, int]]:
        """The interfaces of hosts that are on one segment with it, itself included if it is one."""

    def routes(self) -> list[Request]:
        """Requests for the routes that lead over it."""

    def set_mtu(self, mtu: int) -> None:
        """Set that of both ends."""

    def replug(self, bridge: Inside, ip: str | None, ip6: str | None) -> None:
        """Plug it into another bridge."""


class Interface:
    """An interface of a host, by name."""

    def __init__(self, namespace: Namespace, name: str, index: int, surroundings: Surroundings | None = None) -> None:
        self._namespace = namespace
        self._surroundings = surroundings
        self.name = name
        self.index = index

    def state(self) -> InterfaceState:
        """Read it from the kernel.

        Raises:
            NetnsError: It is gone.
        """
        try:
            self._namespace.netlink.settle(self.index)  # so that carrier and operstate agree
        except KernelError as error:
            if error.errno != errno.ENODEV:
                raise
        for state in read_states(self._namespace):
            if state.index == self.index:
                return state
        raise NetnsError(f"interface {self.name} is gone")

    def up(self) -> None:
        """Switch it on; returns when it is ready: the first packet gets through, its IPv6 addresses can be used.

        Hosts that have asked for its address in vain meanwhile ask anew, instead of a second later. The routes that
        the lab has given it are there again; Linux has taken them away when it went down. Of a veth pair that
        somebody else has made, the other end may take the kernel another moment.
        """
        netlink = self._namespace.netlink
        requests = [self._set(up=True), _requests.get_link(self.index)]
        if self._surroundings is not None:
            self._surroundings.sleeps(False)
        answers = netlink.batch([*requests, *(self._surroundings.routes() if self._surroundings else [])])
        peer = self._surroundings.peer() if self._surroundings else None
        if self._surroundings is not None and peer is not None:
            there, index = peer
            found = there.netlink.batch([_requests.get_link(index)])
            if _answers.is_up(found[0]):
                netlink.wait_ready([self.index], answers, [])
                there.netlink.wait_ready([index], found, [])
                self._surroundings.wait_forwarding()
        for where, index in self._surroundings.neighbours() if self._surroundings else ():
            where.netlink.forget_lost_neighbours(index)
        netlink.wait_usable(self.index)

    def down(self) -> None:
        """Switch it off; the other end of a veth pair loses its carrier.

        Linux takes the routes over it away. Its addresses stay (``keep_addr_on_down``, ip-sysctl.rst).
        """
        self._namespace.netlink.settle(self.index, self._set(up=False))
        if self._surroundings is not None:
            self._surroundings.sleeps(True)
        peer = self._surroundings.peer() if self._surroundings else None
        if peer is not None:
            there, index = peer
            there.netlink.settle(index)

    def set_mtu(self, mtu: int) -> None:
        """Have it send packets of so many bytes at most; and the other end of its cable, if a lab has made it.

        Raises:
            PlanError: It is no MTU, or too small for IPv6 (1280 bytes, RFC 8200) where there are IPv6 addresses.
            KernelError: The interface cannot have it.
        """
        if self._surroundings is not None:
            self._surroundings.set_mtu(mtu)
        else:
            check_mtu(mtu, six=False)
            self._namespace.netlink.batch([_requests.set_mtu(self.index, self.name, mtu)])

    def replug(self, bridge: Inside, *, ip: str | None = AUTO, ip6: str | None = AUTO) -> None:
        """Pull its cable out of the bridge that it is in, and plug it into another: what a roaming station does.

        The interface stays the same, with its hardware address; it loses the carrier for a moment. Its addresses are
        replaced, and the routes of all hosts, their names and the description of the lab are as if it had always been
        there. When this returns, the first packet gets through.

        Args:
            ip, ip6: Its addresses there, without prefix length. By default the next free ones; None for none, for
                whoever waits for a DHCP server.

        Raises:
            PlanError: It is no interface that a lab has made on a bridge, it is switched off, or an address cannot be.
        """
        if self._surroundings is None:
            raise PlanError(f"{self.name} cannot be replugged: no lab has made it")
        if not self.state().up:
            raise PlanError(f"{self.name} is switched off: up() first, or nobody could tell that it is plugged in")
        self._surroundings.replug(bridge, ip, ip6)

    def _set(self, *, up: bool) -> Request:
        return _requests.set_link(self.index, up=up, what=f"set {self.name} {'up' if up else 'down'}")

    def __repr__(self) -> str:
        return f"<Interface {self.name} index {self.index}>"


def read_states(namespace: Namespace) -> list[InterfaceState]:
    """Every interface of a namespace, in the order of their indexes."""
    addresses: dict[int, list[str]] = {}
    for message in namespace.netlink.addresses():
        text = f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}"
        addresses.setdefault(message["index"], []).append(text)
    states = (_state(message, addresses.get(message["index"], ())) for message in namespace.netlink.links())
    if namespace.counted:
        states = (_since(state, *namespace.counted.get((state.index, state.name), (0, 0))) for state in states)
    return sorted(states, key=lambda state: state.index)


def count_anew(namespace: Namespace) -> None:
    """Count packets from now on. The kernel's own counters, which programs see, cannot be set."""
    namespace.counted.clear()
    states = read_states(namespace)
    namespace.counted.update({(state.index, state.name): (state.rx_packets, state.tx_packets) for state in states})


def _since(state: InterfaceState, received: int, sent: int) -> InterfaceState:
    if state.rx_packets < received or state.tx_packets < sent:
        return state  # another interface has its number and name by now
    return replace(state, rx_packets=state.rx_packets - received, tx_packets=state.tx_packets - sent)


def _state(message: Any, addresses: Sequence[str]) -> InterfaceState:
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
        addresses=tuple(addresses),
        bridge_id=None if data is None else _bridge_id(data.get_attr("IFLA_BR_BRIDGE_ID")),
        stp=None if data is None else bool(data.get_attr("IFLA_BR_STP_STATE")),
    )


def _bridge_id(value: Any) -> str | None:
    """A bridge's id as ``brctl show`` writes it: priority, then MAC (IEEE 802.1D)."""
    if value is None:
        return None
    return f"{socket.ntohs(value['prio']):04x}.{value['addr'].replace(':', '')}"
