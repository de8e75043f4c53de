"""Routers: hosts that forward; how they translate addresses is changed here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ._errors import ClosedError, PlanError, hide_own_frames
from ._host import Host
from ._inside import Inside, Owner
from ._nat import Nat, PortForward, set_forward, set_nat
from ._nat_load import load_anew
from ._nat_rules import NOTHING_LEFT, nat_rules
from ._plan import Node, Plan

if TYPE_CHECKING:
    from ._bridge import Bridge

__all__ = ["Router", "as_nat"]

__tracebackhide__ = hide_own_frames


class Router(Host):
    """A host that forwards between its bridges, and may translate addresses on the way out of one of them."""

    def __init__(
        self,
        name: str,
        owner: Owner,
        network: Mapping[str, Host],
        plan: Callable[[], Plan],
        change: Callable[[Plan], None],
    ) -> None:
        """``plan`` gives the plan that it is part of, ``change`` has another one take its place."""
        super().__init__(name, owner=owner, network=network)
        self._plan = plan
        self._change = change
        self._making = owner.making
        self._check_own = owner.check_own

    @property
    def nat(self) -> Nat | None:
        """How it translates; None if it only routes."""
        return self._planned().nat

    @property
    def port_forwards(self) -> tuple[PortForward, ...]:
        """The ports that lead to hosts."""
        return self._planned().port_forwards

    def _planned(self) -> Node:
        node = self._plan().nodes.get(self.name)
        if node is None:
            raise ClosedError(self.why_closed)
        return node

    def set_nat(self, nat: Bridge | Nat | str | None) -> None:
        """Translate otherwise from now on; connections and mappings of before are forgotten, forwards stay.

        Args:
            nat: As with ``lab.router``. None to route only: then outside has routes to the inside, and forwards end.

        Raises:
            PlanError: It cannot be.
            FeatureLacking, NetnsError: The machine lacks what it needs, or nft refused; everything is as before.
        """
        with self._making():
            self._planned()
            if isinstance(nat, Inside):
                self._check_own(nat)
            self._change(set_nat(self._plan(), self.name, as_nat(nat)))

    def forward_port(
        self, port: int, to: Host | str | None, to_port: int | None = None, *, protocol: str = "tcp"
    ) -> None:
        """Have a port of the outside address lead to a host: ``home.forward_port(80, server)``.

        It holds when this returns, in place of where the port led before; connections and mappings stay, but those of
        hosts that had the port outside: they get another with their next packet. Hosts inside reach it by the outside
        address, too, if there is ``hairpin``. For IPv6 the host's own address is let in at ``to_port``.

        Args:
            port: Of the outside address.
            to: A host, or its name; the router itself for a server of its own. None ends the forward.
            to_port: The host's; by default the same.
            protocol: ``"tcp"`` or ``"udp"``.

        Raises:
            PlanError: It cannot be: there is no way from the router to the host, say.
        """
        name = to.name if isinstance(to, Host) else to
        with self._making():
            self._planned()
            if isinstance(to, Host):
                self._check_own(to)
            self._change(set_forward(self._plan(), self.name, port, name, to_port=to_port, protocol=protocol))

    def flush_nat(self) -> None:
        """Forget every connection and mapping, as a router does that was switched off and on; forwards stay.

        The next packet of a connection gets a mapping anew, and so perhaps another port. Done when this returns.

        Raises:
            PlanError: It does not translate.
        """
        namespace = self.namespace
        if self.nat is None:
            raise PlanError(f"{self.name} has no NAT to flush: router({self.name!r}, …, nat=OUTSIDE)")
        rules = nat_rules(self._plan(), self.name)
        text = rules.table + rules.forwards if rules else NOTHING_LEFT  # no cable leads outside now
        load_anew(self.name, namespace, text, text)


def as_nat(value: object) -> Nat | None:
    """What users give as ``nat=``: how to translate, or just the bridge that is outside."""
    if value is None or isinstance(value, Nat):
        return value
    if isinstance(value, str) or (isinstance(value, Inside) and not isinstance(value, Host)):
        return Nat(value)
    raise PlanError(f"nat {value!r}: expected the bridge that is outside, or Nat(BRIDGE, …)")
