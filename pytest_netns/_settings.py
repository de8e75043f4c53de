"""What the user has set: marker > option > ini > default, into frozen values; bad ones are refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TextIO

from ._errors import PlanError

__all__ = [
    "OF_THE_BODY",
    "OF_THE_TEST",
    "MarkerSettings",
    "Settings",
    "is_root",
    "note_session",
    "output_is_seen",
    "read_marker",
    "read_settings",
    "terminal",
]

_MISSING = ("skip", "fail")
#: Keywords of the marker that are about the test's body and not about the pair.
OF_THE_BODY = frozenset(("inside", "timeout"))
#: Keywords of the marker that are about the test, wherever its body runs.
OF_THE_TEST = frozenset(("requires", "isolate", "user"))
#: Seconds for a test body that runs inside, when neither the marker nor another plugin sets a limit.
BODY_LIMIT = 300.0
#: The terminal as long as it is needed; None if there is none.
Terminal = Callable[[], "AbstractContextManager[TextIO | None]"]
#: What ``--capture`` says in the sessions of this process, and what they report to, the innermost last.
_sessions: list[tuple[str, Terminal]] = []


class Settings(NamedTuple):
    """Of a whole session.

    Attributes:
        missing: What becomes of a test where namespaces cannot be had: ``skip`` or ``fail``.
        origin: Where ``missing`` comes from, in words.
        lacking: What becomes of a test whose kernel features are lacking: ``skip`` or ``fail``.
        named: Whether namespaces get names that ``ip netns`` shows.
        isolate: Whether each test runs in a private namespace with all its fixtures.
        artifacts: The folder for what programs in the background have written, empty for none.
    """

    missing: str
    origin: str
    lacking: str
    named: bool
    isolate: bool = False
    artifacts: str = ""


class MarkerSettings(NamedTuple):
    """Of one test, from ``@pytest.mark.netns``.

    Attributes:
        shape: Keywords that shape ``netns_pair``.
        inside: Name of the host that the body runs in; None for a private namespace.
        body_inside: Whether the body runs inside at all.
        timeout: Seconds that the body may take; None for no limit.
        requires: Kernel features that the test needs, by the names in :data:`._features.FEATURES`.
        isolate: Whether the whole test runs in a private namespace; None for what the session says.
        user: Who runs in the hosts: ``root``, or None for the test's own user.
    """

    shape: Mapping[str, Any]
    inside: str | None
    body_inside: bool
    timeout: float | None
    requires: tuple[str, ...] = ()
    isolate: bool | None = None
    user: str | None = None


def note_session(capture: str, terminal: Terminal) -> Callable[[], None]:
    """Note a session's ``--capture`` and its terminal; what this returns takes the note back."""
    noted = capture, terminal
    _sessions.append(noted)
    return lambda: _sessions.remove(noted)


def output_is_seen() -> bool:
    """Whether what programs in the background write is to be seen at once: with ``-s``, and without pytest."""
    return not _sessions or _sessions[-1][0] in ("no", "tee-sys")


def terminal() -> Terminal | None:
    """How to write to the terminal of pytest's session; None if there is no session."""
    return _sessions[-1][1] if _sessions else None


def read_settings(
    option: str | None,
    ini: str,
    named: bool,
    in_ci: bool,
    ini_lacking: str = "",
    *,
    isolate: bool = False,
    artifacts: str = "",
) -> Settings:
    """Work out a session's settings.

    Raises:
        PlanError: A value is not one of the legal ones.
    """
    for value, where in (
        (option, "--netns-missing"),
        (ini or None, "netns_missing in the ini file"),
        (ini_lacking or None, "netns_lacking in the ini file"),
    ):
        if value is not None and value not in _MISSING:
            raise PlanError(f"{where}: {value!r} is neither 'skip' nor 'fail'")
    if option is not None:
        missing, origin = option, "--netns-missing"
    elif ini:
        missing, origin = ini, "netns_missing in the ini file"
    elif in_ci:
        missing, origin = "fail", "CI is set"
    else:
        missing, origin = "skip", "default"
    return Settings(missing, origin, ini_lacking or missing, named, isolate, artifacts)


def read_marker(marks: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]) -> MarkerSettings:
    """Merge a test's markers, given farthest first, so that the closest wins.

    A marker that only shapes the pair or names what the test requires says nothing of the body; any other puts it
    inside, unless the whole test is isolated. Requirements add up. What shapes the pair is not checked here but where
    the pair is planned.

    Raises:
        PlanError: Names the value and what was expected.
    """
    shape: dict[str, Any] = {}
    requires: list[str] = []
    body_inside = False
    for args, keywords in marks:
        if args:
            raise PlanError(f"@pytest.mark.netns takes keywords only, not {args[0]!r}")
        body_inside |= not keywords or not OF_THE_BODY.isdisjoint(keywords)
        shape.update(keywords)
        requires += _names(shape.pop("requires", ()))
    inside = shape.pop("inside", None)
    if inside is not None and not isinstance(inside, str):
        raise PlanError(f"inside {inside!r}: expected the name of a host, such as 'beijing'")
    isolate = shape.pop("isolate", None)
    if isolate not in (None, True, False):
        raise PlanError(f"isolate {isolate!r}: expected True or False")
    if isolate and inside is not None:
        raise PlanError(f"inside={inside!r} and isolate=True: a test is in one place only; leave one of them out")
    # A test that is there with all its fixtures may take the time that it took before.
    timeout = shape.pop("timeout", None if isolate else BODY_LIMIT)
    if timeout is not None and not _is_seconds(timeout):
        raise PlanError(f"timeout {timeout!r}: expected seconds above 0, or None for no limit")
    user = shape.pop("user", None)
    is_root(user)
    body_inside &= not isolate
    return MarkerSettings(shape, inside, body_inside, timeout, tuple(dict.fromkeys(requires)), isolate, user)


def is_root(user: object) -> bool:
    """Whether who runs in a lab's hosts is to be uid 0 there.

    Raises:
        PlanError: It is neither ``"root"`` nor None.
    """
    if user not in ("root", None):
        raise PlanError(f"user {user!r}: expected 'root', or None for the user who runs the test")
    return user is not None


def _names(value: object) -> Sequence[str]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise PlanError(f"requires {value!r}: expected a list of kernel features, such as ['netem', 'wireguard']")
    return value


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
