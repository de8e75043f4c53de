"""Waits for a callable that runs in a host: in a child of the test process, which sends frames over a pipe.

The child may hold a copy of a lock that some thread of the parent held at the fork; so every wait has a limit, and a
child that runs into it leaves the stacks of its threads behind.

Once a debugger was entered in the child, there is no limit, and Ctrl-C is the child's: a terminal sends it to both, and
pdb goes on taking it after "continue". Which is when nobody else should, however late it gets to that.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import faulthandler
import functools
import io
import logging
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import _child, _coverage, _fork, _pickling, _transfer
from ._awaiting import one_readable
from ._entry import Entry
from ._errors import ChildDied, NetnsError, WaitTimeout

__all__ = ["Child", "Outcome", "died", "is_readable", "pass_on"]

_STACKS_LIMIT = 5.0
_CANCELLED = ("CancelledError", "Cancelled")  # asyncio's and trio's
_LONGEST_POLL_MS = 1 << 30  # poll(2) takes an int
_EVERY_SIGNAL = signal.valid_signals()  # masks go by _signal, as ``signal`` would make an enum of each of 64


class _LimitPassed(Exception):
    """A wait inside this module ran out."""


@dataclass
class Outcome:
    """How a child ended: its answer, if it gave one, and its wait status."""

    kind: bytes | None = None
    body: bytes = b""
    status: int = 0

    def result(self, name: str, where: str) -> Any:
        """The value; or the exception raised.

        Raises:
            ChildDied: It ended without an answer.
        """
        __tracebackhide__ = True
        if self.kind == _transfer.VALUE:
            return _transfer.unpack(self.body)
        if self.kind == _transfer.EXCEPTION:
            raise _pickling.unpack_exception(self.body)
        raise died(self.status, name, where)


def died(status: int, name: str, where: str) -> ChildDied:
    """Put the end of a child that gave no answer into words."""
    code = os.waitstatus_to_exitcode(status)
    if code == _child.LOST:
        how = "has closed the descriptor that its result was to go through (os.closerange?)"
    elif code >= 0:
        how = f"left with exit code {code} (os._exit or exec?) instead of returning"
    else:
        try:
            how = f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            how = f"was killed by signal {-code}"
    error = ChildDied(f"{name} in {where} {how}")
    error.returncode = code
    return error


class Child:
    """A callable running in a host."""

    def __init__(self, entry: Entry, function: Callable[[], Any], name: str) -> None:
        self.entry = entry
        self.name = name
        #: Whether it has said that it leaves no other process behind.
        self.alone = False
        self._function = function
        self._outcome = Outcome()
        self._data = bytearray()
        self._shell: int | None = None
        self._held: list[int] = []  # descriptors
        self._reports = bytearray(2 * _fork.REPORT.size)
        self._kill_wanted = False
        self._unheard = False
        self._ended = False
        #: What hears SIGINT while we wait for it, and what did before.
        self._ears: tuple[Callable[..., Any], Callable[..., Any]] | None = None

    def _start(self, *, interruptible: bool = False) -> None:
        opened: list[int] = []
        _child.flush()
        # Asked for first: what blocks them heeds those that have come before it returns what was blocked.
        mask = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            # A handler's exception in the middle of this would lose the child, and in a hook at the fork it would
            # itself be lost. So signals wait.
            _signal.pthread_sigmask(signal.SIG_BLOCK, _EVERY_SIGNAL)
            opened += self._open_frames()
            opened += os.pipe2(os.O_CLOEXEC)
            opened.append(os.memfd_create("netns-stacks", os.MFD_CLOEXEC))
            self._frames, frames, self._report, report, self._stacks = opened
            self._held, opened = [self._frames, self._report, self._stacks], [frames, report]
            os.set_blocking(self._frames, False)
            os.write(self._stacks, b"\0")  # at _child.DEBUGGED_AT
            self._sources = {self._frames, self._report}
            plan = _child.Plan(self._function, self.name, self.entry, frames=frames, stacks=self._stacks)
            self._shell = _fork.fork_inside(plan, mask, report, [self._frames, self._report])
            if interruptible:
                self._leave_interrupts_to_debugger()
        finally:
            _fork.close_all(opened)
            _signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _leave_interrupts_to_debugger(self) -> None:
        """Take SIGINT from now on, in this process: if a debugger was entered in the child by then, it is not ours."""
        own = _signal.getsignal(signal.SIGINT)
        if callable(own) and threading.current_thread() is threading.main_thread():
            ours = functools.partial(self._unless_debugged, own, os.getpid())
            self._ears = ours, own
            _signal.signal(signal.SIGINT, ours)

    def _unless_debugged(self, own: Callable[[int, Any], Any], waiting: int, number: int, frame: Any) -> None:
        __tracebackhide__ = True
        # Another thread may have forked meanwhile, or somebody kept what was ours as theirs.
        if self._ears is None or os.getpid() != waiting or not self.debugged:
            own(number, frame)

    def _take_interrupts(self) -> None:
        """Leave SIGINT to whom it was before, unless somebody has said otherwise meanwhile."""
        ears, self._ears = self._ears, None
        if ears is not None and _signal.getsignal(signal.SIGINT) is ears[0]:
            _signal.signal(signal.SIGINT, ears[1])

    @property
    def debugged(self) -> bool:
        """Whether a debugger was entered in the child, or in one of its own."""
        return os.pread(self._stacks, 1, _child.DEBUGGED_AT) != b"\0"

    def _open_frames(self) -> list[int]:
        """Both ends of what the child answers through."""
        return list(os.pipe2(os.O_CLOEXEC))

    def _read_frames(self) -> bytes:
        return os.read(self._frames, 1 << 16)

    def wait(self, limit: float | None) -> Outcome:
        """Wait for the end, at most ``limit`` seconds; pass on what the child logs, warns and prints meanwhile.

        Raises:
            WaitTimeout: The limit passed. The child is dead, the message shows where it stood.
        """
        __tracebackhide__ = True
        try:
            self._start(interruptible=True)
            return self.wait_for_end(limit)
        finally:
            self._finish()

    def wait_for_end(self, limit: float | None) -> Outcome:
        """:meth:`wait` for one that was started before."""
        __tracebackhide__ = True
        try:
            deadline = _deadline(limit)
            while not self._turn(deadline if deadline is None or not self.debugged else None):
                pass
            return self._outcome
        except BaseException as error:
            self._interrupted(error, limit)
            raise

    async def wait_in_loop(self, limit: float | None) -> Outcome:
        """:meth:`wait` for the running event loop, asyncio's or trio's; cancelling it kills the child."""
        __tracebackhide__ = True
        try:
            self._start()
            deadline = _deadline(limit)
            while not self._ended:
                await one_readable(self._sources, None if self.debugged else deadline)
                self._turn(None if self.debugged else deadline)
            return self._outcome
        except BaseException as error:
            self._interrupted(error, limit)
            raise
        finally:
            self._finish()

    def _interrupted(self, error: BaseException, limit: float | None) -> None:
        """The wait is over before the child is, unless ``error`` came while passing on what it sent."""
        __tracebackhide__ = True
        if isinstance(error, _LimitPassed):
            words = f"{self.name} in {self.entry.where} did not return within {limit:g} s and was killed"
            raise WaitTimeout(words + self.end_telling()) from None
        # A cancelled task is no news. (Neither library may have been imported, so that is known by name.)
        quiet = isinstance(error, KeyboardInterrupt) or type(error).__name__ in _CANCELLED
        if self._shell is not None and not self._ended and not quiet:  # pytest-timeout's, for one
            stacks = self._end_with_stacks()
            if stacks:
                sys.stderr.write(f"{self.name} in {self.entry.where} stood here:\n{stacks}\n")

    def _finish(self) -> None:
        """See that nothing of the child is left, however the wait has ended."""
        try:
            self._take_interrupts()
        finally:
            self._end()

    def _end(self) -> None:
        """May be called again, after it was interrupted, or where not even a start was possible."""
        if self._shell is not None and not self._ended:
            self._unheard = self._kill_wanted = True
            self._signal(signal.SIGKILL)
            while not self._ended:
                with contextlib.suppress(NetnsError):  # it could not enter, and is not there: what else has come counts
                    Child._turn(self, None)
        self._ears = None  # who hears SIGINT must not ask what is closed now
        held, self._held = self._held, []
        _fork.close_all(held)

    def _turn(self, deadline: float | None) -> bool:
        """Wait for something to arrive and handle it; True once the child has ended."""
        left = None
        if self._end_report is not None:
            if not self._ended:  # an interrupt has kept us from taking note of it
                self._take_report()
            return True
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise _LimitPassed
        ready = _readable(self._sources, left)
        if self._frames in ready:
            self._receive()
        if self._report in ready:
            self._take_report()
        return self._ended

    def _receive(self) -> bool:
        """Take in one piece of what the child has sent; False if there was none."""
        try:
            piece = self._read_frames()
        except BlockingIOError:
            return False
        if not piece:
            self._sources.discard(self._frames)
            return False
        self._data += piece
        for kind, body in _transfer.cut_frames(self._data):
            if kind in (_transfer.VALUE, _transfer.EXCEPTION):
                self._outcome.kind, self._outcome.body = kind, body
            elif kind == _transfer.ALONE:
                self.alone = True
            else:
                self._said(kind, body)
        return True

    def _said(self, kind: bytes, body: bytes) -> None:
        """A log record, warning or output has come."""
        if not self._unheard:
            pass_on(kind, body)

    def _take_report(self) -> None:
        # Into what stays: a signal's handler may raise after any call, and a report that was only returned would be
        # lost. For the same reason each step may come twice.
        if self._end_report is None:
            at = 0 if self._pid is None else _fork.REPORT.size
            if not os.readv(self._report, [memoryview(self._reports)[at:]]) and self._end_report is None:
                _fork.REPORT.pack_into(self._reports, at, _fork.ENDED, signal.SIGKILL, 0)  # so was the shell
        if self._end_report is None:
            if self._kill_wanted:
                self._signal(signal.SIGKILL)
            return
        what, first, second = self._end_report
        with contextlib.suppress(ChildProcessError):  # somebody else waits for all children, say
            os.waitpid(self._shell or 0, 0)
        self._ended = True
        if what == _fork.FAILED:
            raise _fork.entry_error(self.entry, self.name, first, second)
        self._outcome.status = first
        while self._receive():
            pass
        if first:  # it has answered, and then died
            self._outcome.kind = None

    @property
    def _pid(self) -> int | None:
        """The child's number, once it has started."""
        what, first, _ = _fork.REPORT.unpack_from(self._reports)
        return first if what == _fork.STARTED else None

    @property
    def _end_report(self) -> tuple[int, int, int] | None:
        """What was reported last, if that was its end."""
        for report in _fork.REPORT.iter_unpack(self._reports):
            if report[0] in (_fork.FAILED, _fork.ENDED):
                return report
        return None

    def end_telling(self) -> str:
        """End it, and tell where it stood and what else runs in the host."""
        from ._listing import processes

        self._wait_for_start()  # or its own number, unknown as yet, would be among the others'
        others = processes(os.fstat(self.entry.net).st_ino, self.entry.where, {self._shell, self._pid})
        stacks = self._end_with_stacks()
        return (f"; it stood here:\n{stacks}" if stacks else "") + others

    def _wait_for_start(self) -> None:
        """Until it is inside, which it is just about to be."""
        deadline = time.monotonic() + _STACKS_LIMIT
        with contextlib.suppress(_LimitPassed):
            while self._pid is None and not self._ended:
                Child._turn(self, deadline)

    def _end_with_stacks(self) -> str:
        """Have the child write where its threads stand and end by that; kill it if it can not."""
        self._wait_for_start()
        deadline = time.monotonic() + _STACKS_LIMIT
        with contextlib.suppress(_LimitPassed):
            self._signal(_child.SHOW_STACKS)
            while not self._ended and not Child._turn(self, deadline):
                pass
        text = os.pread(self._stacks, 1 << 16, _child.STACKS_AT).decode(errors="replace")
        return _child.without_own_frames(text).rstrip()

    def _signal(self, number: int) -> None:
        """Signal the child by a pidfd taken while its shell has not yet reported its end: the number is still its."""
        pid = self._pid
        if pid is None or self._end_report is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            watch = os.pidfd_open(pid)
            try:
                if not _readable({self._report}, 0):
                    signal.pidfd_send_signal(watch, number)
            finally:
                os.close(watch)


def _deadline(limit: float | None) -> float | None:
    return None if limit is None else time.monotonic() + limit


def _readable(fds: set[int], seconds: float | None) -> set[int]:
    """Which of the descriptors can be read within that time; ``select`` would refuse numbers above 1023."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(None if seconds is None else min(seconds * 1000 + 1, _LONGEST_POLL_MS))}


def is_readable(fd: int) -> bool:
    """Whether there is something to read."""
    return bool(_readable({fd}, 0))


def pass_on(kind: bytes, body: bytes) -> None:
    """Make a child's log record, warning, output or coverage our own."""
    if kind == _transfer.RECORD:
        record = _transfer.unpack_record(body)
        logging.getLogger(record.name).handle(record)
    elif kind == _transfer.WARNING:
        # The child has applied the filters, so straight to where warnings go.
        warnings.showwarning(*_transfer.unpack_warning(body))
    elif kind == _transfer.COVERAGE:
        _coverage.keep(_transfer.unpack(body))
    elif kind == _transfer.DEBUGGED:
        _child.tell_parent(kind)  # who waits for us, if we are a child ourselves
        # As both do where a debugger is entered in their own process.
        faulthandler.cancel_dump_traceback_later()
        getattr(sys.modules.get("pytest_timeout"), "pytest_enter_pdb", lambda: None)()
    elif kind == _transfer.OUTPUT:
        name, data = _transfer.unpack(body)
        stream = getattr(sys, name)
        memory = getattr(stream, "buffer", None)
        if isinstance(memory, io.BytesIO):  # not by way of the stream: tee-sys has shown it already
            memory.write(data)
        else:
            stream.write(data.decode(errors="replace"))
