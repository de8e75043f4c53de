"""Every test gets its own network on the real Linux kernel: fixtures, a marker, hosts to run code in, and ping.

The public names are imported when they are first used, so a test session that uses none of them pays nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._bridge import Bridge
    from ._errors import (
        ChildDied,
        ChildError,
        ClosedError,
        FeatureLacking,
        KernelError,
        NamespacesUnavailable,
        NetnsError,
        PlanError,
        RemoteError,
        WaitTimeout,
    )
    from ._factories import LabFactory, PairFactory
    from ._host import Host
    from ._interfaces import Interface, InterfaceState
    from ._lab import Lab, Pair
    from ._namespace import Namespace
    from ._nat import Nat, PortForward
    from ._router import Router
    from ._started import Started
    from ._tun import Tun
    from ._wireguard import WireGuard
    from .packets import PingNote, PingResult, ping

__version__ = "0.1.0"

_HOMES = {
    "_bridge": ("Bridge",),
    "_errors": (
        "ChildDied",
        "ChildError",
        "ClosedError",
        "FeatureLacking",
        "KernelError",
        "NamespacesUnavailable",
        "NetnsError",
        "PlanError",
        "RemoteError",
        "WaitTimeout",
    ),
    "_factories": ("LabFactory", "PairFactory"),
    "_host": ("Host",),
    "_interfaces": ("Interface", "InterfaceState"),
    "_lab": ("Lab", "Pair"),
    "_namespace": ("Namespace",),
    "_started": ("Started",),
    "_nat": ("Nat", "PortForward"),
    "_router": ("Router",),
    "_tun": ("Tun",),
    "_wireguard": ("WireGuard",),
    "packets": ("PingNote", "PingResult", "ping"),
}

__all__ = [
    "Bridge",
    "ChildDied",
    "ChildError",
    "ClosedError",
    "FeatureLacking",
    "Host",
    "Interface",
    "InterfaceState",
    "KernelError",
    "Lab",
    "LabFactory",
    "NamespacesUnavailable",
    "Namespace",
    "Nat",
    "NetnsError",
    "Pair",
    "PairFactory",
    "PingNote",
    "PingResult",
    "PlanError",
    "PortForward",
    "RemoteError",
    "Router",
    "Tun",
    "Started",
    "WaitTimeout",
    "WireGuard",
    "ping",
]


def __getattr__(name: str) -> Any:
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f".{home}", __name__), name) if _here(home) else _absent(name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _here(home: str) -> bool:
    from ._probe import unsupported_platform

    return home in ("_errors", "_factories") or unsupported_platform() is None


def _absent(name: str) -> Any:
    """What stands for a public name on other systems: a test module that imports it loads, and its tests skip."""
    from ._errors import NamespacesUnavailable
    from ._probe import unsupported_platform

    def refuse(*_: object, **__: object) -> Any:
        raise NamespacesUnavailable(unsupported_platform())

    kind = type(name, (type,), {"__call__": refuse, "__getattr__": refuse})
    return kind(name, (), {"__doc__": "Not on this system."})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
