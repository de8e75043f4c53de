"""What the child does inside, from its first step to ``os._exit``; the parent's side is :mod:`pytest_netns._call`.

The child is a copy of the test process, and some of what it has copied is not its own. Log handlers that write to
files, sockets or queues are taken out: another thread may have held the lock of such a handler's buffer at the
fork, and a record would arrive twice. Instead every record goes to the parent, and so do warnings, and what is
written to a stream that is only memory (pytest's ``--capture=sys``), as it is written. Handlers that are only
memory, such as caplog's, serve the callable, and hear its records in the parent as well.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import faulthandler
import functools
import io
import logging
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from . import _coverage, _journal, _kernel, _pickling, _scapy, _transfer
from ._tags import carry

if TYPE_CHECKING:
    from types import TracebackType

    from ._entry import Entry

__all__ = [
    "DEBUGGED_AT",
    "LOST",
    "SHOW_STACKS",
    "STACKS_AT",
    "Plan",
    "as_outside_pytest",
    "enters_debugger",
    "flush",
    "forget_watchdog",
    "run",
    "send_coverage_at_sigterm",
    "tell_parent",
    "without_own_frames",
    "without_way_in",
]

T = TypeVar("T")

#: Asks the child's faulthandler for its stacks, by which it ends; a signal that programs do not use.
SHOW_STACKS = signal.SIGRTMAX - 1
#: Where in the file for its stacks a child notes that a debugger was entered in it, and where the stacks begin. The
#: first is there before the fork: who has a limit for the size of files may write no further (RLIMIT_FSIZE).
DEBUGGED_AT, STACKS_AT = 0, 1
#: Exit code of a child that cannot answer, because the callable has closed what the answer goes through.
LOST = 113
#: Modules that call callables.
_WAY_IN = ("pytest_netns._child", "pytest_netns._block", "pytest_netns._started")


class Plan:
    """What the child is to do, prepared as far as can be before the fork: after it, every page touched is copied."""

    def __init__(self, function: Callable[[], Any], name: str, entry: Entry, *, frames: int, stacks: int) -> None:
        """``frames`` and ``stacks`` are the descriptors that take these."""
        self.function = function
        self.name = name
        self.entry = entry
        self.frames = frames
        self.stacks = stacks
        try:
            self.directory: str | None = os.getcwd()
        except FileNotFoundError:  # it has been removed
            self.directory = None
        self.send = _Sender(frames)
        #: Whether output goes to memory only, which would be lost.
        self.mirrors = any(
            isinstance(getattr(stream, "buffer", None), io.BytesIO) for stream in (sys.stdout, sys.stderr)
        )
        #: The loggers that cannot stay as they are, and the handlers that each is to have.
        self.loggers = _loggers_to_change(_Forward(self.send))
        self.scapy = _scapy.to_look_again()


def run(plan: Plan, mask: Iterable[int]) -> NoReturn:
    """Call, answer, end. Signals are blocked at first; ``mask`` is what the caller of the fork had."""
    code = 1
    try:
        try:
            _settle(plan)
            _signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            _measure(plan.send)
            try:
                value = plan.function()
            finally:
                _send_coverage()
            _end_if_forked(plan, None)
            answer = _transfer.VALUE, _transfer.pack_value(value, plan.name)
        except BaseException as error:
            _end_if_forked(plan, error)
            error.__traceback__ = without_way_in(error.__traceback__)
            answer = _transfer.EXCEPTION, [_pickling.pack_exception(error)]
        code = _answer(plan.send, *answer)
    except BaseException:
        logging.lastResort = None
        sys.excepthook(*sys.exc_info())
    finally:
        flush()
        os._exit(code)


#: What this process has, if it is a child: the way to its parent.
_way_up: _Sender | None = None
#: The files for stacks of this child and of those that it is a child of: descriptors, and what these were.
_stacks: list[tuple[int, tuple[int, int] | None]] = []
_measuring: tuple[_coverage.Measurement, _Sender] | None = None


def tell_parent(kind: bytes) -> None:
    """Say in a child, from wherever it stands, what is said by the kind of frame alone."""
    if _way_up is not None:
        _way_up.forward(kind, b"")


def enters_debugger() -> None:
    """From here on a user is at this process, if it is a child: let those know who wait for it."""
    for fd, identity in _stacks:
        if _identity(fd) == identity:  # a callable may have closed it, and opened another
            with contextlib.suppress(OSError):  # it may have forbidden itself to write to any file
                os.pwrite(fd, b"!", DEBUGGED_AT)
    tell_parent(_transfer.DEBUGGED)


def _measure(send: _Sender) -> None:
    global _measuring  # noqa: PLW0603 - this process is all that it is about
    measurement = _coverage.start()
    _measuring = None if measurement is None else (measurement, send)


def _send_coverage() -> None:
    """End the measurement, if there is one, and send what it has found."""
    global _measuring
    measuring, _measuring = _measuring, None
    if measuring is not None and measuring[1].owner == os.getpid():
        measurement, send = measuring
        send.forward(_transfer.COVERAGE, pickle.dumps(measurement.stop()))


def send_coverage_at_sigterm() -> None:
    """For a callable that is ended with its host: the lines that it has run count all the same."""
    if _measuring is None or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return
    _, send = _measuring

    def end(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        _send_coverage()
        send.in_turn(functools.partial(os.kill, os.getpid(), number))

    signal.signal(signal.SIGTERM, end)


def _end_if_forked(plan: Plan, error: BaseException | None) -> None:
    """A fork of the callable's own has come back to us; the answer is not its to give."""
    if plan.send.owner not in (None, os.getpid()):
        status = error.code if isinstance(error, SystemExit) else error
        if error is not None and error is status:
            sys.excepthook(type(error), error, error.__traceback__)
        flush()
        os._exit(status if isinstance(status, int) else status is not None)


def _settle(plan: Plan) -> None:
    global _way_up  # noqa: PLW0603 - this process is all that it is about
    _way_up = plan.send
    _stacks.append((plan.stacks, _identity(plan.stacks)))
    carry(plan.entry.tag)
    if plan.entry.confined:
        _kernel.keep_network_capabilities()
    _kernel.die_with_parent(signal.SIGKILL)
    if plan.entry.mounts is not None and plan.directory is not None:
        with contextlib.suppress(OSError):
            os.chdir(plan.directory)  # entering a mount namespace has moved us to its root
    with contextlib.suppress(AttributeError):
        # Threads know the number they have in the system, and ours is another now.
        threading.current_thread()._set_native_id()  # type: ignore[attr-defined]
    _signal.set_wakeup_fd(-1)  # it may be that of the parent's event loop
    faulthandler.register(SHOW_STACKS, file=plan.stacks, all_threads=True, chain=True)
    plan.send.owner = os.getpid()
    if plan.mirrors:
        for stream in (sys.__stdout__, sys.__stderr__):  # where --capture=tee-sys shows it, too
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(line_buffering=True)  # an end by a signal must not take lines with it
        _journal.Mirrors(cast(_journal.Journal, _Outputs(plan.send)))
    for logger, handlers in plan.loggers:
        logger.handlers = handlers
    warnings.showwarning = plan.send.warning
    _scapy.look_again(plan.scapy)


def forget_watchdog() -> None:
    """Of ``faulthandler``'s timer (pytest's ``faulthandler_timeout``) the thread has not come along with the fork.

    To cancel it, as pytest does where a debugger is entered, would wait for that thread for ever.
    """
    faulthandler.cancel_dump_traceback_later = lambda: None


def as_outside_pytest(function: Callable[[], T]) -> T:
    """Call what is no test's body: what pytest's hooks note of threads and finalizers nobody would collect here.

    So it is written to stderr, as Python does by itself.
    """
    forget_watchdog()
    for module, name in ((threading, "excepthook"), (sys, "unraisablehook")):
        hook = getattr(module, name)
        owner = getattr(getattr(hook, "func", hook), "__module__", None) or ""
        if owner.startswith("_pytest."):
            setattr(module, name, getattr(module, f"__{name}__"))
    return function()


def without_way_in(step: TracebackType | None) -> TracebackType | None:
    """Of a traceback, what is the callable's: not how it came to be called."""
    while step is not None and step.tb_frame.f_globals["__name__"] in _WAY_IN:
        step = step.tb_next
    return step


def without_own_frames(stacks: str) -> str:
    """Of faulthandler's text, what is the callable's: not how it came to be called."""
    lines: list[str] = []
    skipping = False
    for line in stacks.splitlines():
        frame = line.startswith("  ")
        skipping = frame and (skipping or _RUN in line)
        if not skipping:
            lines.append(line)
    return "\n".join(lines)


#: How faulthandler shows the outermost frame of ours that calls the callable.
_RUN = f'"{run.__code__.co_filename}"'


def _answer(send: _Sender, kind: bytes, pieces: list[Any]) -> int:
    if not send.usable():
        return LOST
    alone = _transfer.header(_transfer.ALONE, 0) if _started_nothing() else b""
    send([alone + _transfer.header(kind, sum(map(len, pieces))), *pieces])
    return 0


def _started_nothing() -> bool:
    """Whether nobody in this PID namespace got a number after us: then we have started no process and no thread."""
    try:
        fd = os.open("/proc/sys/kernel/ns_last_pid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # CONFIG_CHECKPOINT_RESTORE=n, or a masked /proc
        return False
    try:
        return int(os.read(fd, 32)) == os.getpid()
    finally:
        os.close(fd)


class _Sender:
    """Sends frames over a pipe, from any thread of the child."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        #: Of each thread that is in a step, or about to be, what it is to do after it.
        self._afterwards: dict[int, list[Callable[[], None]]] = {}
        self._identity = _identity(pipe)
        self.owner: int | None = None

    def __call__(self, pieces: list[Any]) -> None:
        """Send bytes that make up whole frames."""
        self.in_turn(functools.partial(self._write, pieces))

    def in_turn(self, step: Callable[[], None]) -> None:
        """Do this while no other thread sends.

        A signal's handler may come in the middle of a step of its own thread, for which it could wait for ever. What
        it wants is done after that step.
        """
        thread = threading.get_ident()
        if thread in self._afterwards:
            self._afterwards[thread].append(step)
            return
        # Before the lock is taken and until it is free again: the handler may come at any point.
        afterwards = self._afterwards[thread] = []
        try:
            with self._lock:
                step()
        finally:
            del self._afterwards[thread]
            for each in afterwards:
                self.in_turn(each)

    def _write(self, pieces: list[Any]) -> None:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(self._pipe, view) :]

    def forward(self, kind: bytes, body: bytes) -> None:
        """Send what comes up while the callable runs, in this process but not in its forks."""
        if os.getpid() == self.owner and self.usable():
            self([b"".join(_transfer.frame(kind, body))])

    def warning(
        self, message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
    ) -> None:
        """Forward a warning; takes what ``warnings.showwarning`` takes."""
        self.forward(_transfer.WARNING, _transfer.pack_warning(message, category, filename, lineno))

    def usable(self) -> bool:
        """Whether the descriptor still is what it was: a callable may have closed it, and opened another."""
        return _identity(self._pipe) == self._identity


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _Outputs:
    """Stands in for a journal: what is written down goes to the parent at once."""

    def __init__(self, send: _Sender) -> None:
        self._send = send

    def note(self, name: str, done: tuple[int, bytes | None]) -> None:
        _, data = done
        if data:
            self._send.forward(_transfer.OUTPUT, b"".join(_transfer.pack_value((name, data), "")))


# Logs and warnings


def _loggers_to_change(forward: logging.Handler) -> list[tuple[logging.Logger, list[logging.Handler]]]:
    found = []
    root = logging.root
    for logger in [root, *root.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger) and (logger.handlers or logger is root or not logger.propagate):
            kept = [handler for handler in logger.handlers if not _is_external(handler)]
            if logger is root or not logger.propagate:
                kept.append(forward)
            found.append((logger, kept))
    return found


def _is_external(handler: logging.Handler) -> bool:
    """Whether it has an effect outside of this process's memory, and a buffer with a lock."""
    if isinstance(handler, logging.StreamHandler):
        return not isinstance(handler.stream, io.StringIO)
    return type(handler).__module__ == "logging.handlers"


class _Forward(logging.Handler):
    def __init__(self, send: _Sender) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send.forward(_transfer.RECORD, _transfer.pack_record(record))


def flush() -> None:
    """Flush Python's buffers, which a fork copies."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(Exception):
            stream.flush()  # type: ignore[union-attr]
