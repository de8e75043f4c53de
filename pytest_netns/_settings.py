"""What the user has set for a session: option > ini > default, into frozen values; bad ones are refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, TextIO

from ._errors import PlanError

__all__ = ["Settings", "note_session", "output_is_seen", "read_settings", "terminal"]

_MISSING = ("skip", "fail")
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
