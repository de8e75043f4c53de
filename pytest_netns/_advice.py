"""What to do about a program that complains, where what it writes tells."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._broker import Broker

__all__ = ["about_users"]

#: As programs say that they could not become somebody else, or give a file to somebody else.
_WANTS_ANOTHER_USER = re.compile(
    r"(initgroups|setgroups|set (supplementa(l|ry) )?groups|set(e|re|res)?[ug]id|\b(user|group)-id|\b[ug]id\b|\bchown\b"
    r"|chang(e|ing) ownership)"
    r"(.*|.*\n(.*\n)?.*Error: .*)"  # the second is Python's, with a line that points at the call
    r"(Operation not permitted|Invalid argument)",
    re.IGNORECASE,
)


def about_users(written: str, helper: Broker) -> str:
    """A line to follow what a program has written, if it wanted to be another user where there is no other."""
    if not helper.rootless or not _WANTS_ANOTHER_USER.search(written):
        return ""
    way_out = "" if helper.confines else ', or run it without user="root", which most daemons do not need'
    return (
        f"\n(Without root a host has one user only: tell it not to change its user, group or owner of files{way_out}.)"
    )
