"""Room for the descriptors of a large lab: two for each of its namespaces."""

from __future__ import annotations

import errno
import os

from ._errors import KernelError, hide_own_frames
from ._limits import raise_to

__all__ = ["make_room"]

__tracebackhide__ = hide_own_frames

#: Every limit that is met in practice has room for so many.
_FEW = 64
#: For what the test opens meanwhile.
_SPARE = 128


def make_room(namespaces: int) -> None:
    """Raise this process's soft limit of open files, as far as the hard one, if so many namespaces need it.

    Programs in hosts are started with the limit that the process had before.

    Raises:
        KernelError: The hard limit is too low (EMFILE); the message says what to type.

    Source: getrlimit(2).
    """
    if namespaces <= _FEW:
        return
    needed = max(map(int, os.listdir("/proc/self/fd"))) + 2 * namespaces + _SPARE
    hard = raise_to(needed)
    if hard is not None:
        raise KernelError(
            errno.EMFILE,
            f"{namespaces} hosts and bridges need two open files each, {needed} with those of this process, which may "
            f"have {hard} at most. As root, type: prlimit --pid {os.getppid()} --nofile={needed}:{needed} "
            "(the shell that started this process), and start it again",
        )
