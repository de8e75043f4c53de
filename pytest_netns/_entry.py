"""How something gets into a host, and how long it is waited for there when nothing else is said.

And ``subprocess.Popen`` as it was before the first test: one may have put something in its place when the first program
is started, and what starts it is imported.
"""

from __future__ import annotations

from subprocess import Popen
from typing import NamedTuple

__all__ = ["CALL_LIMIT", "WAIT_LIMIT", "Entry", "Popen"]

#: Seconds that a callable may take. A child can hang for reasons that are not its own (a lock copied in mid-use), so
#: there is always a limit.
CALL_LIMIT = 60.0
#: Seconds that a wait may take.
WAIT_LIMIT = 30.0


class Entry(NamedTuple):
    """The namespaces that a child enters, as descriptors; None means to stay."""

    net: int
    pid: int | None
    user: int | None
    mounts: int | None = None
    uts: int | None = None
    tag: int | None = None
    confined: bool = False
    where: str = ""
