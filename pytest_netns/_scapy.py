"""scapy remembers the interfaces and routes of wherever it was imported; in a host it has to look again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["look_again"]


def look_again() -> None:
    """In a child that has entered a host: have scapy read interfaces and routes there, when it is next asked.

    Costs nothing in a child that does not use scapy: reading takes some 25 ms, so it is put off until then.
    """
    config = sys.modules.get("scapy.config")
    conf = getattr(config, "conf", None)
    if conf is None:
        return
    for name in ("route", "route6"):
        routes = getattr(conf, name, None)
        if routes is not None:
            routes.invalidate_cache()
            _put_off(routes, "routes", routes.resync)
    interfaces = getattr(conf, "ifaces", None)
    if interfaces is not None:
        _put_off(interfaces, "data", interfaces.reload)
        _put_off(conf, "iface", interfaces.reload)


def _put_off(thing: Any, attribute: str, refresh: Callable[[], object]) -> None:
    """Have ``refresh`` called when ``attribute`` of ``thing`` is first looked at."""
    kind = type(thing)

    def look(self: Any) -> Any:
        self.__class__ = kind
        refresh()
        return getattr(self, attribute)

    def replace(self: Any, value: Any) -> None:
        self.__class__ = kind
        setattr(self, attribute, value)

    thing.__class__ = type(kind.__name__, (kind,), {attribute: property(look, replace)})
