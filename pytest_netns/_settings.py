"""What the user has set: marker > option > ini > default, into frozen values; bad ones refused with the legal ones named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._errors import PlanError

__all__ = ["MarkerSettings", "Settings", "read_marker", "read_settings"]

_MISSING = ("skip", "fail")
#: Seconds for a test body that runs inside, when neither the marker nor another plugin sets a limit.
BODY_LIMIT = 300.0


@dataclass(frozen=True)
class Settings:
    """Of a whole session.

    Attributes:
        missing: What becomes of a test where namespaces cannot be had: ``skip`` or ``fail``.
        origin: Where ``missing`` comes from, in words.
        named: Whether namespaces get names that ``ip netns`` shows.
    """

    missing: str
    origin: str
    named: bool


@dataclass(frozen=True)
class MarkerSettings:
    """Of one test, from ``@pytest.mark.netns``.

    Attributes:
        shape: Keywords that shape ``netns_pair``.
        inside: Name of the host that the body runs in; None for a private namespace.
        body_inside: Whether the body runs inside at all.
        timeout: Seconds that the body may take; None for no limit.
    """

    shape: Mapping[str, Any]
    inside: str | None
    body_inside: bool
    timeout: float | None


def read_settings(option: str | None, ini: str, named: bool, in_ci: bool) -> Settings:
    """Work out a session's settings.

    Raises:
        PlanError: A value is not one of the legal ones.
    """
    for value, origin in ((option, "--netns-missing"), (ini or None, "netns_missing in the ini file")):
        if value is not None:
            if value not in _MISSING:
                raise PlanError(f"{origin}: {value!r} is neither 'skip' nor 'fail'")
            return Settings(value, origin, named)
    if in_ci:
        return Settings("fail", "CI is set", named)
    return Settings("skip", "default", named)


def read_marker(args: tuple[Any, ...], keywords: Mapping[str, Any]) -> MarkerSettings:
    """Read the marker of one test; what shapes the pair is checked where the pair is planned.

    Raises:
        PlanError: Names the value and what was expected.
    """
    if args:
        raise PlanError(f"@pytest.mark.netns takes keywords only, not {args!r}")
    shape = dict(keywords)
    inside = shape.pop("inside", None)
    if inside is not None and not isinstance(inside, str):
        raise PlanError(f"inside {inside!r}: expected the name of a host, such as 'beijing'")
    timeout = shape.pop("timeout", BODY_LIMIT)
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0):
        raise PlanError(f"timeout {timeout!r}: expected seconds above 0, or None for no limit")
    return MarkerSettings(shape, inside, inside is not None or not shape, timeout)
