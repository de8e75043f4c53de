"""A whole lab from a dictionary or a TOML file, in the words of the methods that add to one."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ._errors import PlanError, hide_own_frames
from ._plan import AUTO, NOTHING, Plan, add_end, add_link, add_node, add_segment
from ._port import Port

__all__ = ["load_toml", "plan_from"]

__tracebackhide__ = hide_own_frames

_OF_A_LAB = ("bridges", "hosts", "routers", "links")
_OF_A_SEGMENT = ("subnet", "subnet6", "mtu")
_OF_A_BRIDGE = (*_OF_A_SEGMENT, "stp", "vlan_filtering")
_OF_A_PORT = ("isolated", "vlan", "tagged")
_OF_AN_END = ("ip", "ip6", "mac", *_OF_A_PORT)
_OF_A_FORWARD = ("port", "to", "to_port", "protocol")


def load_toml(path: Path) -> Mapping[str, Any]:
    """Read a TOML file.

    Raises:
        PlanError: It is not TOML; the message names the file and the line.
        OSError: It cannot be read.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        with path.open("rb") as file:
            data: Mapping[str, Any] = tomllib.load(file)
        return data
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: {error}") from None


def plan_from(data: Mapping[str, Any], *, ipv6: bool = True) -> Plan:
    """The plan that a dictionary describes.

    Raises:
        PlanError: Names the place in the dictionary, the value and what was expected.
    """
    _check_words("the lab", data, _OF_A_LAB)
    plan = NOTHING
    for name, words in _tables(data, "bridges"):
        with _At(f"bridges.{name}"):
            _check_words("a bridge", words, _OF_A_BRIDGE)
            options = {word: words[word] for word in ("stp", "vlan_filtering") if word in words}
            plan = add_segment(plan, name, **_networks(words), **options, ipv6=ipv6)
    for kind in ("hosts", "routers"):
        for name, words in _tables(data, kind):
            with _At(f"{kind}.{name}"):
                plan = _add_node(plan, name, words, forwards=kind == "routers")
    for number, words in enumerate(_list(data, "links")):
        with _At(f"links[{number}]"):
            plan = _add_link(plan, words, ipv6=ipv6)
    for name, words in _tables(data, "routers"):
        with _At(f"routers.{name}"):
            plan = _add_nat(plan, name, words)
    return plan


def _add_node(plan: Plan, name: str, words: Mapping[str, Any], *, forwards: bool) -> Plan:
    known = ("bridges", "interfaces", *_OF_AN_END)
    of_routers = (*known, "nat", "forward_port", "routes")
    _check_words(*(("a router", words, of_routers) if forwards else ("a host", words, known)))
    plan = add_node(plan, name, forwards=forwards, routed=words.get("routes", True))
    of_first = _of_end({word: words[word] for word in _OF_AN_END if word in words})
    bridges = [_bridge(plan, name) for name in _list(words, "bridges")]
    if of_first and not bridges:
        said = [word for word in _OF_AN_END if word in words]
        raise PlanError(f"{', '.join(said)} need a bridge to be on: bridges = [...]")
    for bridge in bridges:
        plan = add_end(plan, name, bridge, **of_first)
        of_first = {}
    for interface in _list(words, "interfaces"):
        _check_words("an interface", interface, ("bridge", "name", *_OF_AN_END))
        if "bridge" not in interface:
            raise PlanError(f"interfaces: {interface!r} has no bridge")
        own = _of_end({word: value for word, value in interface.items() if word != "bridge"})
        plan = add_end(plan, name, _bridge(plan, interface["bridge"]), **own)
    return plan


def _add_nat(plan: Plan, name: str, words: Mapping[str, Any]) -> Plan:
    """Last, for it may speak of any host or link."""
    if "nat" in words or "forward_port" in words:
        from ._nat import nat_from, set_forward, set_nat

        if "nat" in words:
            plan = set_nat(plan, name, nat_from(words["nat"]))
        for forward in _list(words, "forward_port"):
            _check_words("forward_port", forward, _OF_A_FORWARD)
            if "port" not in forward or "to" not in forward:
                raise PlanError(f"forward_port {forward!r}: expected a port, and the host that it leads to: to")
            own = {word: value for word, value in forward.items() if word not in ("port", "to")}
            plan = set_forward(plan, name, forward["port"], str(forward["to"]), **own)
    return plan


def _add_link(plan: Plan, words: Any, *, ipv6: bool) -> Plan:
    _check_words("a link", words, ("hosts", *_OF_A_SEGMENT))
    hosts = _list(words, "hosts")
    if len(hosts) != 2:
        raise PlanError(f"hosts {hosts!r}: expected two names")
    for host in hosts:
        if host not in plan.nodes:
            raise PlanError(f"hosts: there is no host {host!r}; there are {', '.join(plan.nodes) or 'none'}")
    return add_link(plan, hosts[0], hosts[1], **_networks(words), ipv6=ipv6)


def _of_end(words: dict[str, Any]) -> dict[str, Any]:
    """What is said of an interface; what is said of its port as one value."""
    told = {word: words.pop(word) for word in _OF_A_PORT if word in words}
    return {**words, "told": Port.from_words(**told)} if told else words


def _bridge(plan: Plan, name: Any) -> str:
    if name not in plan.bridges:
        raise PlanError(f"there is no bridge {name!r}; there are {', '.join(plan.bridges) or 'none'}")
    return str(name)


def _networks(words: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a segment; False stands for None, which TOML lacks."""
    said = {word: None if value is False else value for word, value in words.items() if word in _OF_A_SEGMENT}
    return {"subnet": AUTO, "subnet6": AUTO, **said}


def _tables(data: Mapping[str, Any], word: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    value = data.get(word, {})
    if not isinstance(value, Mapping):
        raise PlanError(f"{word}: expected a table of names, not {value!r}")
    return value.items()


def _list(data: Mapping[str, Any], word: str) -> list[Any]:
    value = data.get(word, [])
    if not isinstance(value, (list, tuple)):
        raise PlanError(f"{word} {value!r}: expected a list")
    return list(value)


def _check_words(what: str, data: Any, known: tuple[str, ...]) -> None:
    if not isinstance(data, Mapping):
        raise PlanError(f"{data!r}: expected a table that says {', '.join(known)}")
    for word in data:
        if word not in known:
            close = difflib.get_close_matches(str(word), known, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise PlanError(f"unknown word {word!r}{hint}; {what} has {', '.join(known)}")


class _At:
    """Says of an error in which part of the description it is."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: object, __: object) -> None:
        if isinstance(error, PlanError):
            raise PlanError(f"{self._place}: {error}") from None
