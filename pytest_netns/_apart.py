"""What keeps the interfaces of a plan apart: networks on one host, hardware addresses on one segment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ._errors import PlanError, hide_own_frames

if TYPE_CHECKING:
    from ._plan import End, Plan

__all__ = ["check_apart", "check_mac_free"]

__tracebackhide__ = hide_own_frames


def check_apart(plan: Plan, node: str, segment: str, others: Iterable[End]) -> None:
    """Refuse a router between segments whose networks overlap: a packet for one of them would leave by the other.

    A host may be, and a router without routes: whoever makes them, or puts interfaces into VRFs, tells the two apart.
    """
    if not plan.nodes[node].forwards or not plan.nodes[node].routed:
        return
    for other in {end.segment: None for end in others if end.segment != segment}:
        for version in (4, 6):
            here, there = plan.segments[segment].network(version), plan.segments[other].network(version)
            if here is not None and there is not None and here.overlaps(there):
                raise PlanError(
                    f"{node} cannot be on {other} ({there}) and {segment} ({here}), which overlap: it could not tell "
                    "which way to send. Give one another subnet; to keep them apart by VRFs or routes of your own, "
                    f"make it router({node!r}, …, routes=False)"
                )


def check_mac_free(plan: Plan, segment: str, mac: str, what: str) -> None:
    """Refuse a hardware address that a segment has already, at a host or at a port of the bridge."""
    for end in plan.on_segment[segment]:
        if mac in (end.mac, end.port_mac):
            raise PlanError(f"{what}: {end.name} of {end.node}, or its port, has this address on {segment} already")
