"""The keywords that shape ``netns_pair``, and the plan that comes of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from ._addresses import parse_subnet
from ._checks import check_host_name, check_interface_name, check_mtu
from ._errors import PlanError, hide_own_frames
from ._plan import NOTHING, Plan, add_end, add_node, add_segment

__all__ = ["PairShape", "plan_pair"]

__tracebackhide__ = hide_own_frames


class PairShape(NamedTuple):
    """The keywords that shape ``netns_pair``, checked.

    Attributes:
        hosts: Names of the two hosts.
        bridge: Name of the bridge, True for the default's; False for a veth pair straight between the hosts.
        interfaces: Name of the hosts' interface, or one for each host; at most 15 bytes (IFNAMSIZ, netdevice(7)).
        subnet: IPv4 network of the two; None for no IPv4 addresses.
        subnet6: IPv6 network of the two; None for no IPv6 addresses but link-local ones. The default is a unique
            local prefix (RFC 4193).
        mtu: In bytes, 68 (RFC 791) to 65535; at least 1280 with IPv6 (RFC 8200).
    """

    hosts: tuple[str, str] = ("beijing", "shanghai")
    bridge: str | bool = "br0"
    interfaces: str | tuple[str, str] = "eth0"
    subnet: str | None = "10.0.0.0/24"
    subnet6: str | None = "fd00:10::/64"
    mtu: int = 1500

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> PairShape:
        """Check keywords as a user wrote them.

        Raises:
            PlanError: Names the keyword, the value and what was expected.
        """
        known = cls._fields
        for keyword in keywords:
            if keyword not in known:
                raise PlanError(f"unknown keyword {keyword!r}; netns_pair takes {', '.join(known)}")
        shape = cls(**{word: _tupled(value) for word, value in keywords.items()})
        if shape.bridge is True:
            shape = shape._replace(bridge=cls().bridge)
        _check_names(shape)
        check_mtu(shape.mtu, six=shape.subnet6 is not None)
        for word, value, version in (("subnet", shape.subnet, 4), ("subnet6", shape.subnet6, 6)):
            if value is not None:
                parse_subnet(word, value, version)
        return shape


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_names(shape: PairShape) -> None:
    if not isinstance(shape.hosts, tuple) or len(shape.hosts) != 2:
        raise PlanError(f"hosts {shape.hosts!r}: expected two names, such as ('beijing', 'shanghai')")
    for name in shape.hosts:
        check_host_name(name, "hosts:")
    if shape.hosts[0] == shape.hosts[1]:
        raise PlanError(f"hosts {shape.hosts!r}: both have the same name")
    if not (shape.bridge is False or isinstance(shape.bridge, str)):
        raise PlanError(f"bridge {shape.bridge!r}: expected a name, or False for none")
    if isinstance(shape.bridge, str):
        check_interface_name(shape.bridge, "bridge")
        check_host_name(shape.bridge, "bridge")
        if shape.bridge in shape.hosts:
            raise PlanError(f"bridge {shape.bridge!r} has the name of a host")
    names = shape.interfaces
    if not isinstance(names, str) and not (isinstance(names, tuple) and len(names) == 2):
        raise PlanError(f"interfaces {names!r}: expected a name, or a pair of names, one for each host")
    for name in (names,) if isinstance(names, str) else names:
        check_interface_name(name, "interfaces:")


def plan_pair(shape: PairShape, plan: Plan = NOTHING) -> Plan:
    """The plan with two hosts more, joined by a bridge or directly; their addresses are the next of each network."""
    if plan is NOTHING:
        return _plan_alone(shape)
    return _add(shape, plan)


@functools.lru_cache(256)  # most tests want the same one
def _plan_alone(shape: PairShape) -> Plan:
    return _add(shape, NOTHING)


def _add(shape: PairShape, plan: Plan) -> Plan:
    bridged = isinstance(shape.bridge, str)
    segment = str(shape.bridge) if bridged else " - ".join(shape.hosts)
    plan = add_segment(plan, segment, shape.subnet, shape.subnet6, mtu=shape.mtu, bridged=bridged)
    names = (shape.interfaces, shape.interfaces) if isinstance(shape.interfaces, str) else shape.interfaces
    for host, name in zip(shape.hosts, names, strict=True):
        plan = add_node(plan, host)
        plan = add_end(plan, host, segment, name=name)
    return plan
