"""Every test gets its own network on the real Linux kernel: fixtures, a marker, hosts to run code in, and ping.

The public names are imported when they are first used, so a test session that uses none of them pays nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._errors import (
        ChildDied,
        ChildError,
        ClosedError,
        KernelError,
        NamespacesUnavailable,
        NetnsError,
        PlanError,
        RemoteError,
        WaitTimeout,
    )
    from ._host import Bridge, Host
    from ._interfaces import Interface, InterfaceState
    from ._lab import Lab, Pair
    from ._namespace import Namespace
    from .packets import PingResult, ping
    from .plugin import PairFactory

__version__ = "0.1.0"

_HOMES = {
    "_errors": (
        "ChildDied",
        "ChildError",
        "ClosedError",
        "KernelError",
        "NamespacesUnavailable",
        "NetnsError",
        "PlanError",
        "RemoteError",
        "WaitTimeout",
    ),
    "_host": ("Bridge", "Host"),
    "_interfaces": ("Interface", "InterfaceState"),
    "_lab": ("Lab", "Pair"),
    "_namespace": ("Namespace",),
    "packets": ("PingResult", "ping"),
    "plugin": ("PairFactory",),
}

__all__ = [
    "Bridge",
    "ChildDied",
    "ChildError",
    "ClosedError",
    "Host",
    "Interface",
    "InterfaceState",
    "KernelError",
    "Lab",
    "NamespacesUnavailable",
    "Namespace",
    "NetnsError",
    "Pair",
    "PairFactory",
    "PingResult",
    "PlanError",
    "RemoteError",
    "WaitTimeout",
    "ping",
]


def __getattr__(name: str) -> Any:
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f".{home}", __name__), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
