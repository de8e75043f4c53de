"""Ends what runs in namespaces: SIGTERM, time for those who use it, SIGKILL; the test process's side.

The helper signals, and this process waits: the helper is one for all threads, and serves the others meanwhile.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable, Sequence
from typing import Any

from . import _ending
from ._errors import KernelError

__all__ = ["end_processes"]

#: Rounds of SIGTERM; whoever has children faster than they end is not asked for ever.
_ROUNDS = 10


def end_processes(
    request: Callable[..., tuple[Any, list[int]]],
    kind: str,
    inodes: Sequence[int],
    bridges: Sequence[tuple[bytes, int]],
) -> int:
    """Have every process in these namespaces end, and return how many there were, when all are gone.

    Nobody is waited for who does not listen to SIGTERM, nor longer than needed. If the wait is interrupted (Ctrl-C,
    pytest-timeout) it is over, but not before they are killed.

    Args:
        request: Asks the helper.
        kind: ``net``, ``time`` …, as in ``/proc/PID/ns``.
        inodes: The namespaces.
        bridges: Descriptors of those of bridges that may be kept for another lab, and what these are like.
    """
    names = list(inodes)
    like, fds = [each for each, _ in bridges], [fd for _, fd in bridges]
    ended = 0
    try:
        deadline: float | None = None
        for number in range(_ROUNDS):
            if number:
                like, fds = [], []
            answer, pipe = request("end", kind, names, True, like, fds=fds)
            ended += int(answer)
            if not pipe:
                return ended
            if deadline is None:  # the time is for all of them together
                deadline = time.monotonic() + _ending.GRACE
            count, over = _wait_for_ends(pipe[0], deadline)
            ended += count
            if not over:
                break
    except KernelError as error:
        if error.errno != errno.EMFILE:  # without a descriptor there is no waiting
            raise
    except BaseException:
        request("end", kind, names, False, [])
        raise
    return ended + int(request("end", kind, names, False, [])[0])


def _wait_for_ends(pipe: int, deadline: float) -> tuple[int, bool]:
    """Wait until all are gone, of whom the pipe tells, or the time is up; how many are, and whether these are all."""
    ended = 0
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    try:
        while (left := deadline - time.monotonic()) > 0:
            if poll.poll(left * 1000 + 1):
                data = os.read(pipe, 4096)
                if not data:
                    return ended, True
                ended += len(data)
        return ended, False
    finally:
        os.close(pipe)
