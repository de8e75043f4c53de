"""Bridges: their ports, and what they have learned."""

from __future__ import annotations

from ._errors import hide_own_frames
from ._inside import Inside
from ._interfaces import InterfaceState
from ._namespace import Namespace

__all__ = ["Bridge"]

__tracebackhide__ = hide_own_frames


class Bridge(Inside):
    """An L2 segment: a bridge in a namespace of its own."""

    def _there(self) -> Namespace:
        found = super()._there()
        found.like = None  # who asks for it may change it: it is kept for no other lab
        return found

    @property
    def state(self) -> InterfaceState:
        """The bridge itself, as it is now; ``state.bridge_id`` and ``state.stp`` as ``brctl show`` has them."""
        return self.interfaces[self.name]

    @property
    def ports(self) -> dict[str, InterfaceState]:
        """Its ports as they are now, by name."""
        own = self.state.index
        return {name: state for name, state in self.interfaces.items() if state.master == own}

    @property
    def learned(self) -> dict[str, str]:
        """MAC addresses that it has learned, and the port each is behind (``bridge fdb``)."""
        names = {state.index: name for name, state in self.interfaces.items()}
        return {
            message.get_attr("NDA_LLADDR"): names[message["ifindex"]]
            for message in self.namespace.netlink.bridge_neighbours()
            if not message["state"] & 0x80  # NUD_PERMANENT: the ports' own
        }
