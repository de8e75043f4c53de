"""Hosts: addresses, names, interfaces that are added or moved in."""

from __future__ import annotations

import ipaddress
import os
import socket as _socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from . import _requests
from ._changing import find_end, fix_route, give_address, parse_address, same_address, take_address
from ._errors import ClosedError, NetnsError, PlanError, hide_own_frames
from ._inside import Owner
from ._interfaces import Interface
from ._links import Links
from ._names import NO_NAMESERVER, resolver_file
from ._namespace import Namespace

__all__ = ["Host"]

__tracebackhide__ = hide_own_frames

#: What a router has and other hosts have not.
_OF_ROUTERS = ("nat", "port_forwards", "set_nat", "forward_port", "flush_nat")


class Host(Links):
    """What stands for a computer in a test: a namespace with a name, interfaces, addresses and processes."""

    def __init__(
        self,
        name: str,
        namespace: Namespace | None = None,
        owner: Owner | None = None,
        network: Mapping[str, Host] | None = None,
    ) -> None:
        super().__init__(name, namespace, owner)
        self._given: tuple[str, ...] = ()
        self._added: tuple[str, ...] = ()
        self._resolver = NO_NAMESERVER
        self._network: Mapping[str, Host] = {name: self} if network is None else network

    if not TYPE_CHECKING:  # type checkers know what a host has

        def __getattr__(self, name: str) -> object:
            """Say of what only routers have that it is theirs."""
            __tracebackhide__ = True
            if name not in _OF_ROUTERS or hasattr(type(self), name):
                return object.__getattribute__(self, name)  # which says what is not there
            how = f"lab.router({self.name!r}, BRIDGE, …, nat=OUTSIDE) makes one"
            raise AttributeError(f"{self.name} is a host, and {name} is for routers; {how}")

    @classmethod
    def attach(
        cls,
        name: str | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        pid: int | None = None,
        fd: int | None = None,
    ) -> Host:
        """A host that stands for a namespace that exists already; see :meth:`Namespace.attach` for what is taken.

        Closing the host ends neither the namespace nor what runs in it.
        """
        namespace = Namespace.attach(name, path=path, pid=pid, fd=fd)
        label = name if name is not None and "/" not in name else f"net-{namespace.id}"
        return _AttachedHost(label, namespace)

    @property
    def ip(self) -> str | None:
        """The first IPv4 address that it was given, without prefix length; None if it has none.

        By a plan or :meth:`add_address`: what a program inside changes is not seen here.
        """
        return next((address for address in self._plain() if ":" not in address), None)

    @property
    def ip6(self) -> str | None:
        """The first IPv6 address that it was given; see :attr:`ip`."""
        return next((address for address in self._plain() if ":" in address), None)

    def _plain(self) -> list[str]:
        return [*(address.split("/")[0] for address in self._given), *self._added_plain()]

    def _added_plain(self) -> list[str]:
        return [address.split("/")[0] for address in self._added]

    def resolve(self, name: str) -> str:
        """The address of a host of the same network by its name, or of ``localhost``.

        Raises:
            NetnsError: Nobody here has that name; the message lists the names there are.
        """
        if name == "localhost":
            return "127.0.0.1"
        if name not in self._network:
            known = sorted(["localhost", *self._network])
            raise NetnsError(f"{self.name} knows no host {name!r}; it knows {', '.join(known)}")
        target = self._network[name]
        addresses = [address for address in self.meets_at(target) if address]
        if not addresses:
            raise NetnsError(
                f"the lab has given {name} no address: say one that it has otherwise (by DHCP?), or use add_address"
            )
        others = [self.namesake_of(target, address) for address in addresses]
        if None not in others:
            raise NetnsError(f"{name} is not met at {addresses[0]}: for {self.name} that is {others[0]!r}")
        return addresses[others.index(None)]

    def meets_at(self, target: Host) -> tuple[str | None, str | None]:
        """Where it finds another host: its first IPv4 and IPv6 address; of a router that translates, on this side."""
        if self._owner is None or self._network.get(target.name) is not target:
            return target.ip, target.ip6
        away = self._owner.hidden(self, target)
        return next((each for each in target._plain() if ":" not in each and each not in away), None), target.ip6

    def namesake_of(self, target: Host, address: str) -> Host | None:
        """The host that answers here to ``address`` instead of ``target``, which is in another network.

        In another lab, or behind another router that translates.
        """
        others = (host for host in [*self._network.values()] if host is not target and address in host._plain())
        other = next(others, None)
        if other is None or self._network.get(target.name) is not target or self._owner is None:
            return other
        name = self._owner.answering(self, address)
        return None if name in (None, target.name) else self._network[str(name)]

    def use_nameserver(self, *servers: Host | str, search: Sequence[str] = ()) -> None:
        """Have programs in this host ask these for names that are not those of hosts; none are asked without.

        Written into the host's own ``/etc/resolv.conf``, where programs that run find it, too, once they look again.

        Args:
            servers: Hosts, or IP addresses; at most three. (The port is 53: resolv.conf(5) has no word for others.)
            search: Domains that are tried at the end of short names.

        Raises:
            PlanError: One is neither.
            NetnsError: The machine forbids mounts, so that the host has no such file.
        """
        addresses = []
        for server in servers:
            if isinstance(server, Host) and server.closed:
                raise ClosedError(server.why_closed)
            four, six = self.meets_at(server) if isinstance(server, Host) else (server, None)
            addresses.append(four or six or "")
        text = resolver_file(addresses, search)
        own = self._belongings or self._equip()
        own.check_own_files(self.name)
        self._resolver = text
        self._show_names()

    def adopt(self, interface: Interface) -> Interface:
        """Move an interface that exists (a TUN device, say) into this host; it arrives down.

        Source: ``ip link set NAME netns HOST``, ip-link(8).

        Raises:
            PlanError: It is one that a lab has planned: its cable ends where the lab says.
        """
        if not isinstance(interface, Interface):
            raise PlanError(f"adopt {interface!r}: expected an interface, such as host['tun0'] is")
        planned = (host for host in self._network.values() if host._namespace is interface._namespace)
        if any(host._is_planned(interface.name) for host in planned):
            raise PlanError(
                f"{interface.name} is part of its lab's plan and stays with its host; connect gives {self.name} one of "
                "its own, replug moves a cable, adopt takes interfaces that were added, such as of add_veth or add_tun"
            )
        request = _requests.move_link(interface.index, interface.name, self.namespace.fileno())
        interface._namespace.netlink.batch([request])
        return self[interface.name]

    def add_address(self, interface: str, address: str) -> None:
        """Give an interface one more address, such as ``"10.0.0.9/24"``; on one that is up it can be used at once.

        Every host then knows it under this one's name.
        """
        text = parse_address(address)
        parsed = ipaddress.ip_interface(text)
        if self._owner is not None and self._is_planned(interface):
            self._owner.alter(self.name, lambda plan: give_address(plan, self.name, interface, text))
            return
        state = self[interface].state()
        request = _requests.add_address(state.index, str(parsed.ip), parsed.network.prefixlen)
        # Else it becomes usable with the interface. UNKNOWN is the kinds that know of no carrier, such as VXLAN.
        if parsed.version == 6 and state.up and state.operstate in {"UP", "UNKNOWN"}:
            self.namespace.netlink.add_and_wait(request, state.index, parsed.ip.packed)
        else:
            self.namespace.netlink.batch([request])
        self._added += (text,)
        self._show_names()

    def remove_address(self, interface: str, address: str) -> None:
        """Take an address away that the plan, or :meth:`add_address`, has given: ``"10.0.0.9"``.

        Its name, and the routes of other hosts that led over it, are gone when this returns.

        Raises:
            PlanError: The interface has not been given it.
        """
        if self._owner is not None and self._is_planned(interface):
            self._owner.alter(self.name, lambda plan: take_address(plan, self.name, interface, address))
            return
        same = same_address(address)
        found = next((text for text in self._added if same in (text, text.split("/")[0])), None)
        if found is None:
            raise PlanError(f"address {address!r}: {interface} of {self.name} has not been given it")
        plain, _, length = found.partition("/")
        index = self[interface].index
        self.namespace.netlink.batch([_requests.delete_address(index, plain, int(length))])
        self._added = tuple(text for text in self._added if text != found)
        self._show_names()

    def set_route(self, to: str, via: Host | str | None) -> None:
        """Send packets for a network by way of a neighbour, from now on, instead of the way that was worked out.

        ``laptop.set_route("default", backup)`` switches the default route, of IPv4 and IPv6. It is there when this
        returns, also after the interface was down, as long as this host has an interface on that segment, and until
        ``backup`` is removed.

        Args:
            to: ``"default"``, a network such as ``"192.0.2.0/24"``, or one host's address.
            via: A host on the same bridge or link, or an address; None for no route; ``"auto"`` for the one that is
                worked out, again.

        Raises:
            PlanError: It cannot be.
            KernelError: The kernel refused; everything is as before.
        """
        if self._owner is None:
            raise PlanError(f"{self.name} belongs to no lab; change its routes by ip(8)")
        self._owner.check_own(self, *([via] if isinstance(via, Host) else []))
        name = via.name if isinstance(via, Host) else via
        self._owner.alter(self.name, lambda plan: fix_route(plan, self.name, to, name))

    def _is_planned(self, interface: str) -> bool:
        return self._owner is not None and find_end(self._owner.plan(), self.name, interface) is not None

    def _show_names(self) -> None:
        """Have programs everywhere find what has changed."""
        if self._owner is not None:
            self._owner.show_names()


class _AttachedHost(Host):
    """A host whose namespace is somebody else's: nothing in it is ours to end."""

    def close(self) -> None:
        if not self.closed:
            self._release()

    @property
    def ip(self) -> str | None:
        return self._first(_socket.AF_INET)

    @property
    def ip6(self) -> str | None:
        return self._first(_socket.AF_INET6)

    def _first(self, family: int) -> str | None:
        for message in self.namespace.netlink.addresses():
            if message["family"] == family and message["scope"] == 0:
                return str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
        return None
