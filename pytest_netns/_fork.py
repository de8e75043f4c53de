"""The only ``fork`` in the test process: runs a callable in a child that has entered a host. The child ends here.

    test process ── fork ── A ── setns(user) setns(pid) setns(net) setns(mnt) ── fork ── B

Entering a PID namespace counts for children only, hence two forks. B runs the callable, PID namespace and all, and
dies with A; A does nothing but wait, and reports B's end. B's frames come over a socket pair, A's report over a pipe
of its own, so that a B killed in the middle of a frame cannot garble it.

Rules. B never returns into the caller: whatever happens it ends in ``os._exit``, looked up as an attribute so that
coverage can save its data first. The child may hold a copy of a lock that some thread of the parent held at the fork;
the one that is known to bite is that of a buffered file behind a log handler, so such handlers are dropped in the
child and the records sent to the parent. For the rest every wait has a limit, and a child that runs into it leaves
the stacks of its threads behind.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import logging
import os
import posix
import select
import signal
import socket
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, TextIO

from . import _kernel, _scapy, _transfer
from ._errors import ChildDied, KernelError, NetnsError, WaitTimeout

__all__ = ["Child", "Entry", "Outcome", "died"]

_REPORT = struct.Struct("=iii")  # what, and one or two numbers
_FAILED, _STARTED, _ENDED = 1, 2, 3
#: Asks the child's faulthandler for its stacks, by which it ends; a signal that programs do not use.
_SHOW_STACKS = signal.SIGRTMAX - 1
_STACKS_LIMIT = 5.0


@dataclass(frozen=True)
class Entry:
    """The namespaces that a child enters, as descriptors; None means to stay."""

    net: int
    pid: int | None
    user: int | None
    mounts: int | None = None
    tag: int | None = None
    rootless: bool = False
    where: str = ""


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
            raise _transfer.unpack_exception(self.body)
        raise died(self.status, name, where)


def died(status: int, name: str, where: str) -> ChildDied:
    """Put the end of a child that gave no answer into words."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        try:
            how = f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            how = f"was killed by signal {-code}"
    else:
        how = f"left with exit code {code} (os._exit or exec?) instead of returning"
    error = ChildDied(f"{name} in {where} {how}")
    error.returncode = code
    return error


@dataclass
class Child:
    """A callable running in a host."""

    entry: Entry
    function: Callable[[], Any]
    name: str
    _frames: socket.socket = field(init=False)
    _reports: int = field(init=False)
    _waiter: int = field(init=False)
    _stacks: int = field(init=False)
    _pid: int | None = field(init=False, default=None)
    _kill_wanted: bool = field(init=False, default=False)
    _silent: bool = field(init=False, default=False)
    _ended: bool = field(init=False, default=False)
    _data: bytearray = field(init=False, default_factory=bytearray)
    _outcome: Outcome = field(init=False, default_factory=Outcome)

    def __post_init__(self) -> None:
        with contextlib.ExitStack() as undo:
            self._frames, theirs = socket.socketpair()
            undo.callback(self._frames.close)
            undo.callback(theirs.close)
            self._frames.setblocking(True)  # whatever socket.setdefaulttimeout says
            theirs.setblocking(True)
            self._reports, report = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, self._reports)
            undo.callback(os.close, report)
            self._stacks = os.memfd_create("netns-stacks", os.MFD_CLOEXEC)
            undo.pop_all()
        _flush()
        try:
            self._waiter = _fork()
            if self._waiter == 0:
                self._frames.close()
                _wait_for_child(self, theirs, report)
        except BaseException:
            self._close()
            raise
        finally:
            theirs.close()
            os.close(report)

    def wait(self, limit: float | None) -> Outcome:
        """Wait for the end, at most ``limit`` seconds; pass on what the child logs, warns and prints meanwhile.

        Raises:
            WaitTimeout: The limit passed. The child is dead, the message shows where it stood.
        """
        __tracebackhide__ = True
        deadline = None if limit is None else time.monotonic() + limit
        try:
            while not self._turn(deadline):
                pass
            return self._outcome
        except _LimitPassed:
            stacks = self._end_with_stacks()
            raise WaitTimeout(
                f"{self.name} in {self.entry.where} did not return within {limit:g} s and was killed"
                + (f"; it stood here:\n{stacks}" if stacks else "")
            ) from None
        except KeyboardInterrupt:
            raise
        except BaseException:  # pytest-timeout, for one
            if not self._ended and (stacks := self._end_with_stacks()):
                sys.stderr.write(f"{self.name} in {self.entry.where} stood here:\n{stacks}\n")
            raise
        finally:
            if not self._ended:
                self.kill()
                while not self._turn(None):
                    pass
            self._close()

    def kill(self) -> None:
        """Kill the child, from any thread; :meth:`wait` then returns."""
        self._kill_wanted = True
        self._signal(signal.SIGKILL)

    def _turn(self, deadline: float | None) -> bool:
        """Handle what has arrived; True once the child has ended."""
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise _LimitPassed
        frames = self._frames.fileno()
        ready = _readable([self._reports] if self._silent else [self._reports, frames], left)
        if frames in ready:
            self._receive()
        if self._reports in ready:
            self._take_report()
        return self._ended

    def _receive(self) -> bool:
        """Take in one piece of what the child has sent; False if there was none."""
        try:
            piece = self._frames.recv(1 << 20, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionResetError):
            return False
        self._silent = not piece
        self._data += piece
        for kind, body in _transfer.cut_frames(self._data):
            if kind in (_transfer.VALUE, _transfer.EXCEPTION):
                self._outcome.kind, self._outcome.body = kind, body
            else:
                _pass_on(kind, body)
        return bool(piece)

    def _take_report(self) -> None:
        data = os.read(self._reports, _REPORT.size)
        what, first, second = _REPORT.unpack(data) if data else (_ENDED, signal.SIGKILL, 0)
        if what == _STARTED:
            self._pid = first
            if self._kill_wanted:
                self._signal(signal.SIGKILL)
            return
        self._ended = True
        with contextlib.suppress(ChildProcessError):  # somebody else waits for all children, say
            os.waitpid(self._waiter, 0)
        if what == _FAILED:
            raise _entry_error(self.entry, self.name, first, second)
        while self._receive():
            pass
        self._outcome.status = first
        if first:  # it has answered, and then died: a fork of it may have been what answered
            self._outcome.kind = None

    def _end_with_stacks(self) -> str:
        """Have the child write where its threads stand and end by that; kill it if it can not."""
        self._signal(_SHOW_STACKS)
        deadline = time.monotonic() + _STACKS_LIMIT
        with contextlib.suppress(_LimitPassed):
            while not self._turn(deadline):
                pass
        return os.pread(self._stacks, 1 << 16, 0).decode(errors="replace").rstrip()

    def _signal(self, number: int) -> None:
        """Signal B by a pidfd taken while A has not yet reported its end: then the pid is still B's."""
        if self._pid is None or self._ended:
            return
        with contextlib.suppress(ProcessLookupError):
            watch = os.pidfd_open(self._pid)
            try:
                if not _readable([self._reports], 0):
                    signal.pidfd_send_signal(watch, number)
            finally:
                os.close(watch)

    def _close(self) -> None:
        self._frames.close()
        for fd in (self._reports, self._stacks):
            with contextlib.suppress(OSError):
                os.close(fd)


def _readable(fds: list[int], seconds: float | None) -> set[int]:
    """Which of the descriptors can be read within that time; ``select`` would refuse numbers above 1023."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(None if seconds is None else min(seconds * 1000, 1 << 30))}


#: Filters of warnings are the whole process's: of two threads, one would put the other's back too early.
_filtering = threading.Lock()


def _after_fork_in_child() -> None:
    global _filtering  # noqa: PLW0603 - another thread, which the child does not have, may hold it
    _filtering = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _fork() -> int:
    with _filtering, warnings.catch_warnings():
        # Python 3.12 and later warn when threads exist; the head of this file says what is done about it.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _wait_for_child(child: Child, frames: socket.socket, report: int) -> NoReturn:
    """What A does. A is single-threaded, which entering user and mount namespaces asks for."""
    step = 0
    try:
        entry = child.entry
        directory = _directory()
        for step, (fd, flag, what) in enumerate(_steps(entry)):  # noqa: B007 - told if it fails
            _kernel.setns(fd, flag, what)
        step = -1
        pid = os.fork()
        if pid == 0:
            os.close(report)
            _run(child, frames, directory)
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)  # Ctrl-C is the test process's to handle, and B's
        signal.set_wakeup_fd(-1)  # it may be that of the parent's event loop
        frames.close()
        os.write(report, _REPORT.pack(_STARTED, pid, 0))
        # Tell before reaping: as long as nothing was told, the pid belongs to B.
        info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert info is not None
        status = info.si_status << 8 if info.si_code == os.CLD_EXITED else info.si_status
        os.write(report, _REPORT.pack(_ENDED, status, 0))
        os.waitpid(pid, 0)
    except OSError as error:
        os.write(report, _REPORT.pack(_FAILED, error.errno or 0, step))
    finally:
        # Not os._exit, which coverage may have patched: A has run none of the user's code and has nothing to save.
        posix._exit(0)


def _directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it has been removed
        return None


def _steps(entry: Entry) -> Iterator[tuple[int, int, str]]:
    if entry.user is not None:
        yield entry.user, _kernel.CLONE_NEWUSER, "user namespace"
    if entry.pid is not None:
        yield entry.pid, _kernel.CLONE_NEWPID, "PID namespace"
    yield entry.net, _kernel.CLONE_NEWNET, "network namespace"
    if entry.mounts is not None:
        yield entry.mounts, _kernel.CLONE_NEWNS, "mount namespace"
    if entry.tag is not None:
        yield entry.tag, _kernel.CLONE_NEWTIME, "time namespace"


def _entry_error(entry: Entry, name: str, number: int, step: int) -> NetnsError:
    if step == -1:
        return NetnsError(
            f"{name} could not start in {entry.where}: its helper process has ended ({os.strerror(number)})"
        )
    what = [what for _, _, what in _steps(entry)][step]
    return KernelError(number, f"{name} could not enter the {what} of {entry.where}: {os.strerror(number)}")


def _run(child: Child, frames: socket.socket, directory: str | None) -> NoReturn:
    """What B does."""
    code = 1
    try:
        if child.entry.rootless:
            _kernel.keep_network_capabilities()
        _kernel.die_with_parent(signal.SIGKILL)
        if child.entry.mounts is not None and directory is not None:
            with contextlib.suppress(OSError):
                os.chdir(directory)  # entering a mount namespace has moved us to its root
        faulthandler.register(_SHOW_STACKS, file=child._stacks, all_threads=True, chain=True)
        send = _Sender(frames)
        streams = [
            _InMemory(stream, send) for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)
        ]
        send.forward_logs_and_warnings()
        _scapy.look_again()
        me = os.getpid()
        try:
            value = child.function()
            if os.getpid() != me:
                os._exit(0)  # a fork of the callable has come back; the answer is not its to give
            answer = (_transfer.VALUE, _transfer.pack_value(value, child.function))
        except BaseException as error:
            if os.getpid() != me:
                os._exit(1)
            own_frames = error.__traceback__
            error.__traceback__ = own_frames.tb_next if own_frames is not None else None
            answer = (_transfer.EXCEPTION, _transfer.pack_exception(error))
        for stream in streams:
            stream.send_rest()
        send(*answer)
        code = 0
    except BaseException:
        logging.lastResort = None
        sys.excepthook(*sys.exc_info())
    finally:
        _flush()
        os._exit(code)


class _Sender:
    """Sends frames, from any thread of the child."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()

    def __call__(self, kind: bytes, body: bytes) -> None:
        with self._lock:
            for piece in _transfer.frame(kind, body):
                self._socket.sendall(piece)

    def forward_logs_and_warnings(self) -> None:
        # In-memory handlers (caplog's) serve the callable itself. Others belong to the parent, which gets every
        # record; and here they may hold a lock for ever.
        forward = _Forward(self)
        for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
            if isinstance(logger, logging.Logger):
                logger.handlers = [handler for handler in logger.handlers if not _is_external(handler)]
                if logger is logging.root or not logger.propagate:
                    logger.addHandler(forward)

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
        ) -> None:
            self(_transfer.WARNING, _transfer.pack_warning(message, category, filename, lineno))

        warnings.showwarning = show


def _is_external(handler: logging.Handler) -> bool:
    """Whether it has an effect outside of this process's memory; others serve the callable."""
    if isinstance(handler, logging.StreamHandler):
        return not isinstance(handler.stream, io.StringIO)
    return type(handler).__module__ == "logging.handlers"


class _Forward(logging.Handler):
    def __init__(self, send: _Sender) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(_transfer.RECORD, _transfer.pack_record(record))


class _InMemory:
    """What is written to a stream that is only memory (pytest's ``--capture=sys``) would be lost with the child."""

    def __init__(self, stream: TextIO, send: _Sender) -> None:
        self._stream, self._send = stream, send
        self._name = "stdout" if stream is sys.stdout else "stderr"
        self._start = len(self._value())

    def _value(self) -> str:
        get = getattr(self._stream, "getvalue", None)
        return get() if get is not None else ""

    def send_rest(self) -> None:
        text = self._value()[self._start :]
        if text:
            self._send(_transfer.OUTPUT, _transfer.pack_value((self._name, text), str))


def _pass_on(kind: bytes, body: bytes) -> None:
    """In the parent: make a child's log record, warning or output our own."""
    if kind == _transfer.RECORD:
        record = _transfer.unpack_record(body)
        logging.getLogger(record.name).handle(record)
    elif kind == _transfer.WARNING:
        message, category, filename, lineno = _transfer.unpack(body)
        with warnings.catch_warnings():
            warnings.simplefilter("always")  # the child has applied the filters
            warnings.warn_explicit(message, category, filename, lineno)
    elif kind == _transfer.OUTPUT:
        name, text = _transfer.unpack(body)
        getattr(sys, name).write(text)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
