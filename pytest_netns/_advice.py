"""What to do about a program that complains, where what it writes tells."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._broker import Broker

__all__ = ["about_users", "wants_another_user"]

#: As programs say that they could not become somebody else, or give a file to somebody else.
_ANOTHER_USER = re.compile(
    r"initgroups|setgroups|set (supplementa(l|ry) )?groups|set(e|re|res)?[ug]id|\b(user|group)-id|\b[ug]id\b|\bchown\b"
    r"|chang(e|ing) ownership",
    re.IGNORECASE,
)
_REFUSED = re.compile("Operation not permitted|Invalid argument", re.IGNORECASE)
#: Python's words for that are in the last line of a traceback; the call is one or two lines before.
_OF_PYTHON = re.compile(r"\w*Error: ")
_CALL = re.compile(r"\b(initgroups|setgroups|set(e|re|res)?[ug]id|[lf]?chown)\(")
#: Of a line; a longer one is no message.
_LONGEST = 1000


def wants_another_user(written: str) -> bool:
    """Whether a program that has written this has failed to become somebody else."""
    lines = [line[:_LONGEST] for line in written.splitlines()]
    for number, line in enumerate(lines):
        refused = _REFUSED.search(line)
        if refused is None:
            continue
        if _ANOTHER_USER.search(line, 0, refused.start()):
            return True
        if _OF_PYTHON.search(line, 0, refused.start()) and any(map(_CALL.search, lines[max(0, number - 2) : number])):
            return True
    return False


def about_users(written: str, helper: Broker) -> str:
    """A line to follow what a program has written, if it wanted to be another user where there is no other."""
    if not helper.rootless or not wants_another_user(written):
        return ""
    way_out = "" if helper.confines else ', or run it without user="root", which most daemons do not need'
    return (
        f"\n(Without root a host has one user only: tell it not to change its user, group or owner of files{way_out}.)"
    )
