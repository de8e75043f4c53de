"""A callable in the background of a host: it says itself when it is ready, and ends with the host.

It is a call (:mod:`._call`) that nobody waits for at once. So that it never waits for us either, its answer goes to a
file in memory, and what it prints, logs and warns goes where programs in the background write (:mod:`._output`). Log
records and warnings are in that file, too, for when somebody asks what it has said.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import inspect
import io
import logging
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from . import _pickling, _process, _transfer
from ._background import NO_GUARD, check_limit, how_it_ended, last_output, wait_for_any
from ._block import to_its_end
from ._call import Child, is_readable, pass_on
from ._child import as_outside_pytest, send_coverage_at_sigterm, without_way_in
from ._entry import CALL_LIMIT
from ._errors import ChildDied, NetnsError, WaitTimeout, hide_own_frames
from ._limits import room_for_a_program
from ._output import Output
from ._writing import Writing

if TYPE_CHECKING:
    from ._broker import Broker
    from ._entry import Entry

__all__ = ["Started"]

__tracebackhide__ = hide_own_frames

T = TypeVar("T")


class _Child(Child):
    """One whose answer waits in a file, and whose readiness is an event of its own."""

    def __init__(self, entry: Entry, function: Callable[[], Any], name: str) -> None:
        super().__init__(entry, function, name)
        self._place = 0
        self._heard: collections.deque[tuple[bytes, bytes]] = collections.deque()
        self._lock = threading.RLock()

    def _open_frames(self) -> list[int]:
        file = os.memfd_create("netns-answer", os.MFD_CLOEXEC)
        return [file, os.dup(file)]

    def _read_frames(self) -> bytes:
        piece = os.pread(self._frames, 1 << 16, self._place)
        self._place += len(piece)
        return piece

    def begin(self) -> None:
        """Start it; return when it is inside."""
        self._start()
        self._sources = {self._report}  # a file can be read at any time
        while self._pid is None and not self._ended:
            self._turn(None)

    def _receive(self) -> bool:
        with self._lock:  # one of the test's threads may wait for its output
            return super()._receive()

    def _said(self, kind: bytes, body: bytes) -> None:
        if kind == _transfer.COVERAGE:
            pass_on(kind, body)
        else:
            self._heard.append((kind, body))

    def hear(self, guard: contextlib.AbstractContextManager[object]) -> None:
        """Make our own what it has logged and warned so far."""
        with self._lock:
            self._read_on()
        while True:
            with self._lock:
                if not self._heard:
                    return
                kind, body = self._heard.popleft()  # one by one: a handler that raises takes no others with it
            with guard:
                pass_on(kind, body)

    def _read_on(self) -> None:
        while self._held and self._receive():
            pass

    def _finish(self) -> None:
        with self._lock:
            try:
                self._read_on()  # who took note of its end may have been interrupted
            finally:
                super()._finish()

    def look(self) -> bool:
        """Take note of its end, if it has ended."""
        return self._ended or (is_readable(self._report) and self._turn(None))

    @property
    def ended_by(self) -> int:
        """A descriptor that can be read once it has ended; -1 when that is known."""
        return -1 if self._ended else self._report


class Started(Writing, Generic[T]):
    """A callable that runs in the background of a host; what ``host.start`` returns."""

    def __init__(self, entry: Entry, broker: Broker, function: Callable[..., T], args: Any, kwargs: Any) -> None:
        __tracebackhide__ = True
        name = getattr(function, "__qualname__", None) or repr(function)
        if not callable(function):
            raise TypeError(f"expected a callable, not {function!r}; for a command use host.popen([...])")
        self._label = f"{name}()"
        self._entry = entry
        self._where = entry.where
        self._owner = os.getpid()
        self._told = self._end_expected = self._over = False
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        room_for_a_program(self._bell)
        output = Output(broker)
        self.kept: Output | None = output
        asks = _asks_for_ready(function, args, kwargs)
        if asks:
            kwargs = {**kwargs, "ready": functools.partial(os.eventfd_write, self._bell, 1)}
        work = functools.partial(_with_output, output.pipe, functools.partial(to_its_end(function), *args, **kwargs))
        self._child = _Child(entry, work, name)
        try:
            broker.request("keep", fds=output.fds())
            self._child.begin()
            output.started()
            if asks:
                self._wait_until_ready()
        except BaseException:
            self.release()
            raise

    def _wait_until_ready(self) -> None:
        __tracebackhide__ = True
        deadline = time.monotonic() + CALL_LIMIT
        while not is_readable(self._bell):
            if self._child.look():
                if is_readable(self._bell):  # it has rung, and ended, since we looked
                    self._finish()
                    return
                self._told = True
                self._child._outcome.result(self.label, self._where)
                raise ChildDied(f"{self.label} in {self._where} returned, and has not called ready()")
            if time.monotonic() >= deadline:
                raise WaitTimeout(
                    f"{self.label} in {self._where} has not called ready() within {CALL_LIMIT:g} s and was killed"
                    + self._child.end_telling()
                    + last_output(self)
                )
            wait_for_any([self._bell, self._child.ended_by], deadline - time.monotonic())

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return self._label

    @property
    def output(self) -> str:
        """What it has printed, logged and warned so far."""
        assert self.kept is not None
        self.kept.look_now()
        self.hear()
        return self.kept.data().decode(errors="backslashreplace")

    def wait(self, timeout: float = CALL_LIMIT) -> T:
        """Wait for its end; return its value or raise what it raised.

        Args:
            timeout: Seconds. When they are over it is killed, as with ``host.call``.

        Raises:
            ChildDied: It was killed by a signal or left without returning.
            WaitTimeout: The time is over; the message shows where it stood.
        """
        __tracebackhide__ = True
        check_limit(timeout)
        if self._owner != os.getpid():
            raise NetnsError(f"{self.label} was started by another process; wait for it there")
        self._told = True
        try:
            if not self._over:
                self._child.wait_for_end(timeout)
                self._finish()
        finally:
            self.hear()
        return self._child._outcome.result(self.label, self._where)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End it now; may be called twice."""
        self.expect_end()
        self._finish()

    def _finish(self) -> None:
        if not self._over:
            self._child._finish()
            self._over = True  # now: one that is interrupted may be called again

    # In the background of a host: see ``Work`` in :mod:`._background`

    def running(self) -> bool:
        """Whether it has not ended yet."""
        if self._over:
            return False
        if self._owner != os.getpid():  # its end is for the process that started it to take note of
            return not is_readable(self._child._report)
        if self._child.look():
            self._finish()
        return not self._over

    def bad_end(self) -> str | None:
        """How it ended, if that was an error that nobody wanted and of which nobody has been told."""
        if self._told or self._end_expected or self.running() or not self._over:
            return None
        outcome = self._child._outcome
        return None if outcome.kind == _transfer.VALUE else self.state()

    def state(self) -> str:
        """That it is running, or how it ended."""
        if self.running():
            return "running"
        outcome = self._child._outcome
        if outcome.kind == _transfer.VALUE:
            return "has returned"
        if outcome.kind == _transfer.EXCEPTION:
            error = _pickling.unpack_exception(outcome.body)
            return "raised " + "".join(traceback.format_exception_only(type(error), error)).strip()
        return how_it_ended(os.waitstatus_to_exitcode(outcome.status))

    def _failure(self) -> int | None:
        return None if self._child._outcome.kind == _transfer.VALUE else 0

    def tell(self, *, told: bool = True) -> None:
        """Somebody has been told how it ended; or nobody has, after all."""
        self._told = told

    def is_told(self) -> bool:
        """Whether somebody has been told how it ended."""
        return self._told

    def expect_end(self) -> None:
        """It is about to be ended by us."""
        self._end_expected |= self.running()

    def hear(self, guard: contextlib.AbstractContextManager[object] = NO_GUARD) -> None:
        """Make our own what it has logged and warned so far."""
        if self._owner == os.getpid():
            self._child.hear(guard)

    def watched(self) -> int:
        """A descriptor that can be read once it has ended; -1 when that is known."""
        return -1 if self._over else self._child.ended_by

    def release(self) -> None:
        """Its host is gone, and it with it."""
        if self._owner == os.getpid():
            self._finish()
        if self.kept is not None:
            self.kept.close()
        bell, self._bell = self._bell, -1
        if bell >= 0:
            os.close(bell)

    def __repr__(self) -> str:
        return f"<Started {self.label} in {self._where}>"


def _asks_for_ready(function: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    """Whether it has a parameter ``ready`` to which the caller gives nothing."""
    try:
        signature = inspect.signature(function)
        parameter = signature.parameters.get("ready")
        given = signature.bind_partial(*args, **kwargs).arguments
    except (ValueError, TypeError):  # it tells nothing of itself; or the call itself will fail, and say why
        return False
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return parameter is not None and parameter.kind in named and "ready" not in given


def _with_output(pipe: int, work: Callable[[], Any]) -> Any:
    """In the child: what it writes by any way goes to the pipe, its traceback too."""
    os.setsid()
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    for program in list(_process._running):
        if program.stdin is not None and not program.stdin.closed:
            os.dup2(nowhere, program.stdin.fileno(), inheritable=False)
    os.close(nowhere)
    for number in (1, 2):
        os.dup2(pipe, number)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(os.fdopen(number, "wb", 0, closefd=False), "utf-8", "backslashreplace", write_through=True)
        for number in (1, 2)
    )
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.root.addHandler(shown)
    warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
    send_coverage_at_sigterm()
    try:
        return as_outside_pytest(work)
    except BaseException as error:
        traceback.print_exception(type(error), error, without_way_in(error.__traceback__))
        raise


def _show_warning(
    forward: Callable[..., None],
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    *_: Any,
    **__: Any,
) -> None:
    forward(message, category, filename, lineno)
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))
