"""What a lab knows around an interface that it has made: the other end, who is on the segment, the routes over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _requests
from ._changing import find_end, replug, set_mtu
from ._errors import PlanError, hide_own_frames
from ._namespace import Namespace
from ._plan import End
from ._requests import Request
from ._routing import routes

if TYPE_CHECKING:
    from ._inside import Inside
    from ._life import Life

__all__ = ["LabSurroundings"]

__tracebackhide__ = hide_own_frames


class LabSurroundings:
    """Of an interface that a lab has made, on either side of its veth pair."""

    def __init__(self, lab: Life, end: End, *, is_port: bool) -> None:
        self._lab, self._found, self._is_port = lab, end, is_port

    @property
    def _end(self) -> End:
        """As it is by now: it may have been plugged in elsewhere."""
        found = find_end(self._lab._made, self._found.node, self._found.name)
        return self._found if found is None else found

    def sleeps(self, asleep: bool) -> None:
        """It is switched off, or on."""
        if not self._is_port:
            (self._lab._asleep.add if asleep else self._lab._asleep.discard)((self._end.node, self._end.name))

    def peer(self) -> tuple[Namespace, int] | None:
        end, lab = self._end, self._lab
        if self._is_port:
            return lab._hosts[end.node].namespace, end.index
        if end.port:
            return lab._bridges[end.segment].namespace, end.port_index
        other = next(each for each in lab._made.on_segment[end.segment] if each is not end)
        return lab._hosts[other.node].namespace, other.index

    def wait_forwarding(self) -> None:
        end, lab = self._end, self._lab
        if lab._made.segments[end.segment].stp:
            lab._bridges[end.segment].namespace.netlink.wait_forwarding([end.port_index])

    def neighbours(self) -> list[tuple[Namespace, int]]:
        ends = self._lab._made.on_segment.get(self._end.segment, ())
        return [(self._lab._hosts[end.node].namespace, end.index) for end in ends]

    def routes(self) -> list[Request]:
        if self._is_port:
            return []
        these = routes(self._lab._made).get(self._end.node, ())
        table = self._lab._hosts[self._end.node]._tables.get(self._end.index)
        return [
            _requests.restore_route(route.version, route.destination, route.via, table)
            for route in these
            if route.segment == self._end.segment
        ]

    def set_mtu(self, mtu: int) -> None:
        end = self._end
        self._lab.alter(end.node, lambda plan: set_mtu(plan, end.node, end.name, mtu))

    def replug(self, bridge: Inside, ip: str | None, ip6: str | None) -> None:
        end, lab = self._end, self._lab
        lab.check_own(bridge)
        if self._is_port or bridge.name not in lab._bridges:
            raise PlanError(
                f"replug {end.name} into {bridge!r}: expected an interface of a host, and a bridge of its lab"
            )
        lab.alter(end.node, lambda plan: replug(plan, end.node, end.name, bridge.name, ip=ip, ip6=ip6))
