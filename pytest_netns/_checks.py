"""What can be the name of a host or an interface, an MTU and a user; all else is refused in words."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from ._errors import PlanError, hide_own_frames

__all__ = ["check_host_name", "check_interface_name", "check_mtu", "check_resolvable", "is_root"]

__tracebackhide__ = hide_own_frames

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def check_host_name(value: object, word: str = "host name") -> None:
    """Refuse what cannot be a host's name (RFC 1123 labels, and no path)."""
    if not isinstance(value, str) or not _LABEL.fullmatch(value):
        raise PlanError(
            f"{word} {value!r}: expected letters, digits, '-', '_' and '.', at most 63, "
            "beginning and ending with a letter or digit"
        )


def check_resolvable(name: str, word: str, others: Iterable[str]) -> None:
    """Refuse a host's name that programs would take for something else, or for that of another host."""
    if name.lower() == "localhost":
        raise PlanError(f"{word} {name!r}: every host is this to itself; expected another name")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        raise PlanError(f"{word} {name!r}: programs would read it as an address; expected a name, and ip= or ip6=")
    if name.lower() in map(str.lower, others):
        other = next(other for other in others if other.lower() == name.lower())
        raise PlanError(f"{word} {name!r}: there is {other!r}, which is the same to a resolver (RFC 4343)")


def check_interface_name(value: object, word: str = "interface name") -> None:
    """Refuse what Linux refuses as the name of an interface (dev_valid_name, net/core/dev.c)."""
    if not isinstance(value, str) or not value:
        raise PlanError(f"{word} {value!r}: expected a string of 1 to 15 bytes")
    size = len(value.encode("utf-8", "surrogatepass"))
    if size > 15:
        raise PlanError(f"{word} {value!r} is {size} bytes long; Linux takes 15 at most (IFNAMSIZ)")
    if value in (".", "..", "lo", "all", "default") or not re.fullmatch(r"[!-~]+", value) or set("/:%") & set(value):
        raise PlanError(
            f"{word} {value!r}: expected printable ASCII without space, '/', ':' or '%', and not a reserved word"
        )


def check_mtu(value: object, *, six: bool) -> None:
    """Refuse what cannot be an MTU: less than IPv4 (RFC 791) or IPv6 (RFC 8200) needs, or more than veth takes."""
    if not isinstance(value, int) or isinstance(value, bool) or not 68 <= value <= 65535:
        raise PlanError(f"mtu {value!r}: expected a whole number of bytes from 68 to 65535")
    if value < 1280 and six:
        raise PlanError(f"mtu {value}: IPv6 needs 1280 at least (RFC 8200); for less, give subnet6=None")


def is_root(user: object) -> bool:
    """Whether who runs in a lab's hosts is to be uid 0 there.

    Raises:
        PlanError: It is neither ``"root"`` nor None.
    """
    if user not in ("root", None):
        raise PlanError(f"user {user!r}: expected 'root', or None for the user who runs the test")
    return user is not None
