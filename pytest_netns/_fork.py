"""The only ``fork`` in the test process, and what the forked process, the *shell*, does until its child is inside.

    test process ── fork ── shell ── setns(user, pid, net, mnt, uts, time) ── fork ── child

Entering a PID namespace counts for children only (setns(2)), hence two forks. The shell then does nothing but wait,
and reports the child's end, over a pipe of its own, so that a child killed in the middle of a frame cannot garble it.
What the child does is in :mod:`pytest_netns._child`, and how the test process waits for it in
:mod:`pytest_netns._call`. Neither returns into the caller: whatever happens they end in ``os._exit``.

A child that shares the shell's memory (CLONE_VM) would save the second copy, and was tried. It is not worth it: the
kernel drops the registration of restartable sequences (rseq_fork, include/linux/rseq.h), which the C library goes on
trusting, and a child that is killed at the wrong moment leaves the shell to return on a stack that is not its own.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import errno
import os
import posix
import re
import struct
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from . import _child, _kernel
from ._errors import KernelError, NetnsError

if TYPE_CHECKING:
    from ._entry import Entry

__all__ = ["ENDED", "FAILED", "REPORT", "STARTED", "close_all", "entry_error", "fork_inside"]

#: What the shell reports: one of the words below, and one or two numbers.
REPORT = struct.Struct("=iii")
FAILED, STARTED, ENDED = 1, 2, 3


#: Python 3.12 and later warn when threads exist; :mod:`._call` and :mod:`._child` do what can be done. A filter of our
#: own, because ``catch_warnings`` in one thread undoes what another has set meanwhile.
_QUIET = ("ignore", None, DeprecationWarning, re.compile(re.escape(__name__)), 0)


#: Descriptors below this are closed; without close_range(2), which Python may have been built without, one by one.
_HIGHEST = 1 << 16


def _fork() -> int:
    if sys.version_info >= (3, 12) and list(warnings.filters[:1]) != [_QUIET]:
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=re.escape(__name__))
    return os.fork()


def fork_inside(plan: _child.Plan, mask: set[int], report: int, others: list[int]) -> int:
    """Fork the shell and return its number.

    Args:
        plan: What the child is to do.
        mask: The signals to block in the child; the caller has blocked all.
        report: Where the shell reports, as a descriptor.
        others: Descriptors that the shell closes.
    """
    parent = os.getpid()
    steps = list(_steps(plan.entry))
    try:
        return _fork() or _go_inside(plan, steps, mask, report, others)
    finally:
        if os.getpid() != parent:
            posix._exit(1)


def close_all(fds: list[int]) -> None:
    """Close descriptors of ours."""
    for fd in fds:
        os.close(fd)


def _go_inside(
    plan: _child.Plan, steps: list[tuple[int, int, str]], mask: set[int], report: int, others: list[int]
) -> NoReturn:
    """The shell. It is single-threaded, which entering user, mount and time namespaces asks for."""
    step = 0
    try:
        close_all(others)
        for fd, flag, what in steps:
            _kernel.setns(fd, flag, what)
            step += 1
        step = -1
        # Who ignores SIGCHLD is not told how children ended: waitpid(2). The shell has to know.
        ignored = _signal.getsignal(_signal.SIGCHLD) == _signal.SIG_IGN
        if ignored:
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        pid = _kernel.fork_again()
        if pid == 0:
            os.close(report)
            if ignored:
                _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
            _child.run(plan, mask)
        # Nothing else of the parent's is kept open here: pipes and connections that it closes are to end.
        os.closerange(3, report)
        os.closerange(report + 1, _HIGHEST)
        _say(report, STARTED, pid)
        # Tell before reaping: as long as nothing was told, the number belongs to the child.
        info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert info is not None
        status = info.si_status << 8 if info.si_code == os.CLD_EXITED else info.si_status
        _say(report, ENDED, status)
        os.waitpid(pid, 0)
    except OSError as error:
        _say(report, FAILED, error.errno or 0, step)
    finally:
        # Not os._exit, which coverage may have patched: none of the user's code has run here.
        posix._exit(0)


def _say(report: int, what: int, first: int, second: int = 0) -> None:
    with contextlib.suppress(OSError):  # the parent is gone, or has heard it already
        os.write(report, REPORT.pack(what, first, second))


def _steps(entry: Entry) -> Iterator[tuple[int, int, str]]:
    if entry.user is not None:
        yield entry.user, _kernel.CLONE_NEWUSER, "user namespace"
    if entry.pid is not None:
        yield entry.pid, _kernel.CLONE_NEWPID, "PID namespace"
    yield entry.net, _kernel.CLONE_NEWNET, "network namespace"
    if entry.mounts is not None:
        yield entry.mounts, _kernel.CLONE_NEWNS, "mount namespace"
    if entry.uts is not None:
        yield entry.uts, _kernel.CLONE_NEWUTS, "UTS namespace"
    if entry.tag is not None:
        yield entry.tag, _kernel.CLONE_NEWTIME, "time namespace"


def entry_error(entry: Entry, name: str, number: int, step: int) -> NetnsError:
    """What the report ``FAILED`` says, in words."""
    if step == -1:
        # pid_namespaces(7): once its PID 1 has ended, a fork into a PID namespace fails with this.
        why = "its helper process has ended" if number == errno.ENOMEM else "the fork failed"
        return KernelError(number, f"{name} could not start in {entry.where}: {why} ({os.strerror(number)})")
    what = [what for _, _, what in _steps(entry)][step]
    return KernelError(number, f"{name} could not enter the {what} of {entry.where}: {os.strerror(number)}")
