"""scapy remembers the interfaces and routes of wherever it was imported; in a host it has to look again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["look_again", "to_look_again"]

#: Objects of scapy, and the class that each is to have so that it looks again.
Outdated = list[tuple[Any, type]]


def to_look_again() -> Outdated:
    """What :func:`look_again` takes, made before the fork: classes made after it take a millisecond or more.

    Nothing, in a process that does not use scapy.
    """
    conf = getattr(sys.modules.get("scapy.config"), "conf", None)
    found: Outdated = []
    for name in ("route", "route6"):
        routes = getattr(conf, name, None)
        if routes is not None:
            found.append(_put_off(routes, "routes", _resync))
    interfaces = getattr(conf, "ifaces", None)
    if interfaces is not None:
        found.append(_put_off(interfaces, "data", _reload))
        found.append(_put_off(conf, "iface", _reload_all))
    return found


def look_again(outdated: Outdated) -> None:
    """In a child that has entered a host: have scapy read interfaces and routes there, when it is next asked.

    Reading takes some 25 ms, so it is put off until then.
    """
    for thing, kind in outdated:
        if hasattr(kind, "invalidate_cache"):
            thing.invalidate_cache()
        thing.__class__ = kind


def _resync(routes: Any) -> None:
    routes.resync()


def _reload(interfaces: Any) -> None:
    interfaces.reload()


def _reload_all(conf: Any) -> None:
    conf.ifaces.reload()


def _put_off(thing: Any, attribute: str, refresh: Callable[[Any], object]) -> tuple[Any, type]:
    """The thing, and a class like its own that calls ``refresh`` when ``attribute`` is first looked at."""
    kind = type(thing)
    if (kind, attribute) not in _made:
        _made[kind, attribute] = _make(kind, attribute, refresh)
    return thing, _made[kind, attribute]


_made: dict[tuple[type, str], type] = {}


def _make(kind: type, attribute: str, refresh: Callable[[Any], object]) -> type:
    def look(self: Any) -> Any:
        self.__class__ = kind
        refresh(self)
        return getattr(self, attribute)

    def replace(self: Any, value: Any) -> None:
        self.__class__ = kind
        setattr(self, attribute, value)

    return type(kind.__name__, (kind,), {attribute: property(look, replace)})
