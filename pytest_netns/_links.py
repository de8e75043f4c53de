"""Further interfaces of a host: what ``ip link add … type`` makes, one method for each kind.

Those that others speak to (VXLAN, GRE, WireGuard) and those that sit on others (VLAN, macvlan, bond, VRF) arrive
without addresses and switched on; :meth:`Host.add_address` gives addresses.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from . import _requests
from ._addresses import check_mac
from ._checks import check_interface_name
from ._errors import KernelError, NetnsError, PlanError, hide_own_frames
from ._inside import Inside
from ._interfaces import Interface
from ._releasing import releasing

if TYPE_CHECKING:
    from ._tun import Tun
    from ._wireguard import WireGuard

__all__ = ["Links"]

__tracebackhide__ = hide_own_frames

# linux/if_bonding.h, linux/if_link.h
_BOND_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
_MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
#: Milliseconds between two looks at the carriers of a bond's members; the kernel's own default is never to look.
_MIIMON = 100


class Links(Inside):
    """A host's methods that give it further interfaces: ``host.add_vlan("eth0", 10)``.

    All return the interface, up and ready, and take its ``name``, at most 15 bytes. All raise PlanError for what
    cannot be, KeyError where the host has no such interface to build on, and KernelError where the kernel refuses. A
    kernel that lacks the kind is told of with the module and the option that bring it;
    ``@pytest.mark.netns(requires=["vlan"])`` skips a test there. Nothing is left of an attempt that fails.
    """

    _tuns: tuple[Tun, ...] = ()
    #: Routing tables of interfaces that belong to a VRF, by their indexes: another interface may get the name.
    _tables: Mapping[int, int] = MappingProxyType({})

    def add_vlan(self, parent: str, number: int, *, name: str | None = None) -> Interface:
        """One VLAN of an interface: its frames carry the number as their tag; named ``eth0.10`` by default.

        Args:
            parent: The interface that the tagged frames go through.
            number: Of the VLAN, 1 to 4094 (IEEE 802.1Q).

        Source: ``ip link add link eth0 name eth0.10 type vlan id 10``, ip-link(8).
        """
        number = _number("number", number, 1, 4094)
        return self._made(name or f"{parent}.{number}", "vlan", [("IFLA_VLAN_ID", number)], parent=parent)

    def add_macvlan(
        self, parent: str, mode: str = "bridge", *, mac: str | None = None, name: str | None = None
    ) -> Interface:
        """An interface with a hardware address of its own, on the same cable; named ``macvlan0`` by default.

        Args:
            parent: The interface whose cable it uses.
            mode: ``bridge``: those on one parent reach each other; ``private``, ``vepa``: they do not, or only by way
                of the switch outside; ``passthru``: it is the only one.
            mac: Its hardware address; by default the kernel picks one.

        Source: ip-link(8).
        """
        chosen = _MACVLAN_MODES[_word("mode", mode, _MACVLAN_MODES)]
        mac = mac if mac is None else check_mac("mac", mac)
        name = name or self._free_name("macvlan")
        return self._made(name, "macvlan", [("IFLA_MACVLAN_MODE", chosen)], parent=parent, mac=mac)

    def add_dummy(self, *, name: str | None = None) -> Interface:
        """An interface that leads nowhere, for addresses that are to be there; named ``dummy0`` by default."""
        return self._made(name or self._free_name("dummy"), "dummy")

    def add_vxlan(
        self,
        number: int,
        *,
        remote: str | None = None,
        local: str | None = None,
        parent: str | None = None,
        port: int = 4789,
        name: str | None = None,
    ) -> Interface:
        """An Ethernet segment inside UDP packets; named ``vxlan42`` by default.

        Args:
            number: Of the segment (VNI), 1 to 16777215.
            remote: Where frames go that nobody is known for: the other end, or a multicast group, which needs
                ``parent``. Without one, the table that ``bridge fdb`` writes tells.
            local: The address to send from; by default what the route tells.
            parent: The interface to send through; its MTU, less what the wrapping takes, is then taken over.
            port: UDP port of both sides.

        Source: RFC 7348, ip-link(8).
        """
        data: list[tuple[str, Any]] = [
            ("IFLA_VXLAN_ID", _number("number", number, 1, (1 << 24) - 1)),
            ("IFLA_VXLAN_PORT", _number("port", port, 1, 65535)),
        ]
        for word, value, attribute in (("remote", remote, "GROUP"), ("local", local, "LOCAL")):
            if value is not None:
                address = _address(word, value)
                if word == "remote" and address.is_multicast and parent is None:
                    raise PlanError(f"remote {value!r} is a multicast group, which needs parent='eth0', or whichever")
                data.append((f"IFLA_VXLAN_{attribute}{'6' * (address.version == 6)}", str(address)))
        if parent is not None:
            data.append(("IFLA_VXLAN_LINK", self[parent].index))
        return self._made(name or f"vxlan{number}", "vxlan", data)

    def add_gre(self, remote: str, *, local: str | None = None, name: str | None = None) -> Interface:
        """A tunnel that carries IP packets inside IP packets; named ``gre1`` by default.

        Args:
            remote: Address of the other end, IPv4 or IPv6.
            local: The address to send from; by default what the route tells. Over IPv6 Linux wants to be told.

        Source: RFC 2784, RFC 7676, ip-link(8).
        """
        there = _address("remote", remote)
        family, kind = ("IFLA_GRE", "gre") if there.version == 4 else ("IFLA_IP6GRE", "ip6gre")
        data = [(f"{family}_REMOTE", str(there))]
        if local is None and there.version == 6:  # it would send nothing (ip6_tnl_get_cap, net/ipv6/ip6_tunnel.c)
            raise PlanError(f"local {local!r}: a tunnel to {remote} wants the IPv6 address to send from (host.ip6)")
        if local is not None:
            here = _address("local", local)
            if here.version != there.version:
                raise PlanError(f"local {local!r}: expected IPv{there.version}, as remote {remote!r} is")
            data.append((f"{family}_LOCAL", str(here)))
        return self._made(name or self._free_name("gre", 1), kind, data)

    def add_wireguard(
        self, private_key: str | None = None, *, listen_port: int = 51820, name: str | None = None
    ) -> WireGuard:
        """An encrypted tunnel; named ``wg0`` by default. Its peers are told by :meth:`WireGuard.add_peer`.

        Args:
            private_key: In base64, as ``wg genkey`` writes it; by default a new one.
            listen_port: UDP port.

        Source: wg(8).
        """
        from ._wireguard import WireGuard, check_key, check_port

        if private_key is not None:
            check_key("private_key", private_key)
        check_port("listen_port", listen_port)
        made = self._created(name or self._free_name("wg"), "wireguard")
        with self._undone(made):
            tunnel = WireGuard(made._namespace, made.name, made.index)
            tunnel._configure(private_key, listen_port)
            self._switch_on(tunnel)
        return tunnel

    def add_vrf(self, table: int, interfaces: Sequence[str] = (), *, name: str | None = None) -> Interface:
        """A routing domain: its interfaces' packets follow a routing table of their own; named ``vrf10`` by default.

        Interfaces that join it are switched off and on by the kernel, which takes routes over them away; those that
        the lab has given them come back in the new table, and there go those that it gives them later. Further ones:
        ``ip route add … vrf vrf10``.

        Args:
            table: Number of the routing table, 1 to 4294967295; 253 to 255 are Linux's own.
            interfaces: What is to belong to it.

        Source: Documentation/networking/vrf.rst.
        """
        table = _number("table", table, 1, (1 << 32) - 1)
        if table in (253, 254, 255):
            raise PlanError(f"table {table}: expected another, 253 to 255 are Linux's own")
        members = [self[each] for each in interfaces]
        vrf = self._created(name or f"vrf{table}", "vrf", [("IFLA_VRF_TABLE", table)])
        with self._undone(vrf, *members):
            self._switch_on(vrf)
            for member in members:
                self._join(member, vrf)
                self._tables = {**self._tables, member.index: table}
                member.up()  # waits until it is ready again
        return vrf

    def add_bond(self, interfaces: Sequence[str], mode: str = "active-backup", *, name: str | None = None) -> Interface:
        """Several interfaces as one; named ``bond0`` by default. The carriers of its members are looked at each 0.1 s.

        Args:
            interfaces: Its members: without addresses, such as ``lab.bridge("lan", None, None)`` gives.
            mode: ``active-backup``, ``balance-rr``, ``balance-xor``, ``broadcast``, ``802.3ad``, ``balance-tlb`` or
                ``balance-alb``. With ``802.3ad`` (LACP) it has its carrier once the other side has answered.

        Source: Documentation/networking/bonding.rst.
        """
        number = _BOND_MODES.index(_word("mode", mode, _BOND_MODES))
        members = [self[each] for each in interfaces]
        if not members:
            raise PlanError(f"interfaces {interfaces!r}: expected at least one")
        for member in members:
            _check_bare(member)
        data = [("IFLA_BOND_MODE", number), ("IFLA_BOND_MIIMON", _MIIMON)]
        bond = self._created(name or self._free_name("bond"), "bond", data)
        with self._undone(bond, *members):
            for member in members:
                member.down()  # the kernel takes only those
                self._join(member, bond)
                member.up()
            self._switch_on(bond)
        return bond

    def add_tun(self, *, name: str | None = None) -> Tun:
        """An interface for IP packets whose other end is the test, by :meth:`Tun.read` and ``write``; ``tun0``."""
        return self._tun(name or self._free_name("tun"), frames=False)

    def add_tap(self, *, name: str | None = None) -> Tun:
        """An interface for Ethernet frames whose other end is the test, by :meth:`Tun.read` and ``write``; ``tap0``."""
        return self._tun(name or self._free_name("tap"), frames=True)

    # How they are made

    def _made(self, name: str, kind: str, data: Sequence[tuple[str, Any]] = (), **more: Any) -> Interface:
        interface = self._created(name, kind, data, **more)
        with self._undone(interface):
            self._switch_on(interface)
        return interface

    def _created(
        self,
        name: str,
        kind: str,
        data: Sequence[tuple[str, Any]] = (),
        *,
        parent: str | None = None,
        mac: str | None = None,
    ) -> Interface:
        check_interface_name(name)
        below = None if parent is None else self[parent].index
        try:
            self.namespace.netlink.batch([_requests.add_link(name, kind, data, parent=below, mac=mac)])
        except KernelError as error:
            raise _explained(error, kind, f"create {kind} {name}") from None
        return self[name]

    @contextlib.contextmanager
    def _undone(self, interface: Interface, *members: Interface) -> Iterator[None]:
        """If the block fails, no such interface is left; members are up again."""
        indexes = {member.index for member in members}
        try:
            yield
        except BaseException:
            with contextlib.suppress(KernelError):
                interface._namespace.netlink.batch([_requests.delete_link(interface.index)])
            self._tables = {member: table for member, table in self._tables.items() if member not in indexes}
            for member in members:
                with contextlib.suppress(NetnsError):
                    member.up()
            raise

    @staticmethod
    def _switch_on(interface: Interface) -> None:
        netlink = interface._namespace.netlink
        netlink.settle(interface.index, interface._set(up=True))
        netlink.wait_usable(interface.index)

    @staticmethod
    def _join(member: Interface, master: Interface) -> None:
        what = f"make {member.name} a member of {master.name}"
        member._namespace.netlink.batch([_requests.set_master(member.index, master.index, what)])

    def _tun(self, name: str, *, frames: bool) -> Tun:
        from ._tun import Tun

        check_interface_name(name)
        namespace = self.namespace
        try:
            _, (fd,) = namespace.broker.request("tun", name, frames, fds=[namespace.fileno()])
        except KernelError as error:
            what = f"create {'tap' if frames else 'tun'} {name}"
            raise _explained(KernelError(error.errno, f"{what}: {error.strerror}"), "tun", what) from None
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, fd)  # which ends it
            made = Tun(namespace, name, self[name].index, fd)
            self._switch_on(made)
            undo.pop_all()
        self._tuns += (made,)
        return made

    def _free_name(self, word: str, first: int = 0) -> str:
        taken = self.interfaces
        return next(name for number in itertools.count(first) if (name := f"{word}{number}") not in taken)

    def _release(self) -> None:
        with releasing(self.name) as release:
            for tun in self._tuns:  # each would keep the namespace
                release(tun.close)
            release(super()._release)


def _explained(error: KernelError, feature: str, what: str) -> KernelError:
    """The error, or, where the kernel lacks the feature, one that says so and what to type."""
    from ._features import lacking

    reasons = lacking([feature])
    return KernelError(error.errno, f"{what}: {reasons[0]}") if reasons else error


# Checks


def _number(word: str, value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise PlanError(f"{word} {value!r}: expected a whole number from {least} to {most}")
    return value


def _word(word: str, value: str, known: Sequence[str] | dict[str, int]) -> str:
    if value not in known:
        raise PlanError(f"{word} {value!r}: expected one of {', '.join(known)}")
    return value


def _address(word: str, value: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        if isinstance(value, str):
            return ipaddress.ip_address(value)
    except ValueError:
        pass
    raise PlanError(f"{word} {value!r}: expected an address, such as '10.0.0.2' or 'fd00:10::2'")


def _check_bare(member: Interface) -> None:
    own = [address for address in member.state().addresses if not address.startswith("fe80:")]
    if own:
        raise PlanError(
            f"{member.name} has the address {own[0]}, and a member of a bond has none: put it on a bridge without "
            "networks, lab.bridge('lan', None, None), and give the bond the address"
        )
