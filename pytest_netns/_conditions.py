"""What of a lab that runs passes nothing, as the kernel has it now; for whoever describes the lab."""

from __future__ import annotations

from collections.abc import Mapping

from . import _requests
from ._answers import condition
from ._errors import NetnsError
from ._namespace import Namespace
from ._plan import BRIDGE_INDEX, Plan

__all__ = ["conditions"]

_AT_A_TIME = 32


def conditions(plan: Plan, namespaces: Mapping[str, Namespace]) -> dict[tuple[str, str], str]:
    """By host and interface, or twice the bridge: ``down``, ``no carrier`` or ``gone``; of all else there is nothing.

    A place that nothing can be asked of is passed over, so that a lab in any state can be described.
    """
    found: dict[tuple[str, str], str] = {}
    for place, namespace in namespaces.items():
        if place in plan.nodes:
            known = {end.index: end.name for end in plan.of_node[place]}
        elif place in plan.segments:
            known = {BRIDGE_INDEX: place}
        else:
            continue
        try:
            now = _now(namespace, list(known))
        except (NetnsError, OSError):
            continue
        for index, name in known.items():
            # A bridge without a port that is on has no carrier, and needs none.
            if now[index] is not None and (index != BRIDGE_INDEX or now[index] != "no carrier"):
                found[place, name] = str(now[index])
    return found


def _now(namespace: Namespace, indexes: list[int]) -> dict[int, str | None]:
    found: dict[int, str | None] = dict.fromkeys(indexes, "gone")
    for start in range(0, len(indexes), _AT_A_TIME):
        requests = [_requests.get_link(index) for index in indexes[start : start + _AT_A_TIME]]
        found.update(condition(message) for message in namespace.netlink.attempt(requests)[0])
    return found
