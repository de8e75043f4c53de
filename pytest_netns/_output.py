"""What a program in the background has written: kept by the helper (:mod:`._keeping`), read here."""

from __future__ import annotations

import bisect
import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

from . import _settings
from ._advice import about_users
from ._errors import NetnsError
from ._keeping import FRAME
from ._releasing import releasing

if TYPE_CHECKING:
    from ._broker import Broker

__all__ = ["Output"]

_PIECE = 1 << 20
#: How much of the end of an output is shown, in bytes.
_SHOWN = 1 << 15


class Output:
    """The standard output and error of one program, in the order in which they were written."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._owner = os.getpid()
        self._lock = os.getpid(), threading.RLock()
        self._data = bytearray()
        self._starts: list[int] = []  # of each piece, its place in the data …
        self._times: list[float] = []  # … and when it came
        self._read = 0
        #: Whether nobody can write any more.
        self.over = False
        with contextlib.ExitStack() as undo:
            #: Readable when something may have come.
            self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            undo.callback(os.close, self.bell)
            self._file = os.memfd_create("netns-output", os.MFD_CLOEXEC)
            undo.callback(os.close, self._file)
            self._pipe, self.pipe = os.pipe2(os.O_CLOEXEC)
            undo.pop_all()
        os.set_blocking(self._pipe, False)

    def fds(self) -> list[int]:
        """What the helper needs to keep it."""
        shown = [1] if _settings.output_is_seen() and _is_open(1) else []
        return [self._pipe, self._file, self.bell, *shown]

    def started(self) -> None:
        """The program and the helper have the pipe; let go of it here."""
        os.close(self._pipe)
        os.close(self.pipe)
        self._pipe = self.pipe = -1

    def look(self) -> bytearray:
        """All that has come."""
        if self._lock[0] != os.getpid():  # a thread that is not here may have held it at the fork
            self._lock = os.getpid(), threading.RLock()
        with self._lock[1]:
            return self._look()

    def _look(self) -> bytearray:
        if self._file < 0:
            return self._data
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.bell)
        raw = bytearray()
        while piece := os.pread(self._file, _PIECE, self._read + len(raw)):
            raw += piece
        at = 0
        while len(raw) - at >= FRAME.size:
            when, size = FRAME.unpack_from(raw, at)
            end = at + FRAME.size + size
            if end > len(raw):
                break  # it is being written
            self._starts.append(len(self._data))
            self._times.append(when)
            self._data += raw[at + FRAME.size : end]
            self.over |= not size
            at = end
        self._read += at
        if self.over:
            self._let_go()
        return self._data

    def look_now(self) -> bytearray:
        """All that was written until now, even if it has not come yet."""
        with contextlib.suppress(NetnsError):  # the helper has ended; what it has kept is here
            self._broker.request("drain")
        return self.look()

    def stamped(self) -> bytes:
        """Every line with the time of day when its first byte came."""
        data = bytes(self.look_now())
        lines = []
        place = 0
        for line in data.splitlines(keepends=True):
            when = self._times[bisect.bisect_right(self._starts, place) - 1]
            clock = time.strftime("%H:%M:%S", time.localtime(when)) + f".{int(when * 1000) % 1000:03} "
            lines.append(clock.encode() + line)
            place += len(line)
        return b"".join(lines)

    def tail(self) -> str:
        """The last of it, each line with the time of day when it came."""
        data = self.stamped()
        before = ""
        if len(data) > _SHOWN:
            cut = data.find(b"\n", len(data) - _SHOWN) + 1 or len(data) - _SHOWN
            before = f"({data.count(bytes([10]), 0, cut)} lines before)\n"
            data = data[cut:]
        return before + data.decode(errors="backslashreplace").rstrip("\n")

    def advice(self, written: str) -> str:
        """What else is to be said to who reads that."""
        return about_users(written, self._broker)

    def close(self) -> None:
        """Take in the rest and let go of the descriptors; what has come stays."""
        if self._file < 0:
            return
        with releasing("output") as release:
            if self._owner == os.getpid():
                release(self.look_now)
            release(self._let_go)

    def _let_go(self) -> None:
        file, self._file = self._file, -1
        held = (file, self.bell, self._pipe, self.pipe)
        self.bell = self._pipe = self.pipe = -1
        with releasing("output") as release:
            for fd in held:
                if fd >= 0:
                    release(os.close, fd)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
