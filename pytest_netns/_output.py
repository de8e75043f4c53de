"""What a program in the background has written: kept by the helper (:mod:`._keeping`), read here.

However long, it takes memory once: it stays in the file that the helper writes, and here is only where in that file
each piece is. Only of a short one is there a copy, so that the file can go when nobody writes any more.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import re
import threading
import time
import weakref
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import _settings
from ._advice import about_users
from ._errors import NetnsError
from ._keeping import FRAME
from ._releasing import releasing

if TYPE_CHECKING:
    from ._broker import Broker

__all__ = ["Output"]

#: As much is read at a time to find the next pieces.
_PAGE = 1 << 12
_BLOCK = 1 << 20
#: A longer one stays in its file.
_SHORT = 1 << 20
#: How much of the end of an output is shown, in bytes.
_SHOWN = 1 << 15
#: As ``bytes.splitlines`` has it.
_LINE_END = re.compile(rb"\r\n|\r|\n")


class Output:
    """The standard output and error of one program, in the order in which they were written."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._owner = os.getpid()
        self._lock = os.getpid(), threading.RLock()
        self._starts = array("Q")  # of each piece, its place in the output …
        self._times = array("d")  # … and when it came
        #: How many bytes there are.
        self.size = 0
        self._read_to = 0  # in the file
        self._copy: bytearray | None = bytearray()  # all of it, as long as it is short
        self._counted = self._lines = 0  # up to which place lines have been counted, and how many
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
        # A long one can be read as long as somebody has it.
        self._close_file = weakref.finalize(self, os.close, self._file)
        self._close_file.atexit = False

    def fds(self) -> list[int]:
        """What the helper needs to keep it."""
        shown = [1] if _settings.output_is_seen() and _is_open(1) else []
        return [self._pipe, self._file, self.bell, *shown]

    def started(self) -> None:
        """The program and the helper have the pipe; let go of it here."""
        pipes = self._pipe, self.pipe
        self._pipe = self.pipe = -1  # first: whoever interrupts this must not have them closed twice
        for fd in pipes:
            os.close(fd)

    def look(self) -> None:
        """Take note of all that has come."""
        with self._alone():
            if self.bell >= 0:
                self._look()

    def _alone(self) -> threading.RLock:
        if self._lock[0] != os.getpid():  # a thread that is not here may have held it at the fork
            self._lock = os.getpid(), threading.RLock()
        return self._lock[1]

    def _look(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.bell)
        self._find_pieces(os.fstat(self._file).st_size)
        if self._copy is not None:
            if self.size <= _SHORT:
                self._copy += self._read(len(self._copy), self.size)
            else:
                self._copy = None
        if self.over:
            self._let_go()

    def _find_pieces(self, written: int) -> None:
        """``written``: up to where the file is; a piece that ends after it is being written."""
        while written - self._read_to >= FRAME.size:
            page = os.pread(self._file, _PAGE, self._read_to)
            at = 0
            while len(page) - at >= FRAME.size:
                when, size = FRAME.unpack_from(page, at)
                if self._read_to + at + FRAME.size + size > written:
                    self._read_to += at
                    return
                if size:
                    self._starts.append(self.size)
                    self._times.append(when)
                    self.size += size
                else:
                    self.over = True
                at += FRAME.size + size
            self._read_to += at

    def look_now(self) -> None:
        """Take note of all that was written until now, even if it has not come yet."""
        with contextlib.suppress(NetnsError):  # the helper has ended; what it has kept is here
            self._broker.request("drain")
        self.look()

    def data(self) -> bytearray:
        """All of which note was taken."""
        return self._read(0, self.size)

    def _read(self, start: int, end: int) -> bytearray:
        with self._alone():  # another thread may find the end meanwhile, and close the file
            copy = self._copy
            if copy is not None and end <= len(copy):
                return copy[start:end]
            data = bytearray(end - start)
            with memoryview(data) as view:
                for number, first, last in self._pieces(start, end):
                    place = first
                    while place < last:
                        into = view[place - start : last - start]
                        place += os.preadv(self._file, [into], place + (number + 1) * FRAME.size)
        return data

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The numbers of the pieces between two places, and from where to where each is."""
        number = bisect.bisect_right(self._starts, start) - 1
        while start < end:
            number += 1
            last = min(end, self._starts[number]) if number < len(self._starts) else end
            yield number - 1, start, last
            start = last

    def stamped(self, start: int = 0) -> Iterator[bytes]:
        """All of which note was taken, in parts, every line with the time of day when its first byte came."""
        line_begins, before = True, b""
        for number, first, last in self._pieces(start, self.size):
            data = bytes(self._read(first, last))
            split = before == b"\r" and data[:1] == b"\n"
            before = data[-1:]
            if split:  # one end of a line, and no line between
                yield b"\n"
                data = data[1:]
                if not data:
                    continue
            when = self._times[number]
            clock = time.strftime("%H:%M:%S", time.localtime(when)) + f".{int(when * 1000) % 1000:03} "
            stamp = clock.encode()
            if line_begins:
                yield stamp
            data = _LINE_END.sub(rb"\g<0>" + stamp, data)
            line_begins = before in (b"\r", b"\n")
            yield data[: -len(stamp)] if line_begins else data  # the next line's first byte is yet to come

    def tail(self) -> str:
        """The last of it, each line with the time of day when it came."""
        self.look_now()
        start = max(0, self.size - _SHOWN)
        data = b"".join(self.stamped(start))
        before = ""
        if len(data) > _SHOWN:
            cut = data.find(b"\n", len(data) - _SHOWN) + 1 or len(data) - _SHOWN
            before = f"({self._lines_until(start) + data.count(bytes([10]), 0, cut)} lines before)\n"
            data = data[cut:]
        return before + data.decode(errors="backslashreplace").rstrip("\n")

    def _lines_until(self, place: int) -> int:
        while self._counted < place:
            block = self._read(self._counted, min(place, self._counted + _BLOCK))
            self._counted += len(block)
            self._lines += block.count(b"\n")
        return self._lines

    def advice(self, written: str) -> str:
        """What else is to be said to who reads that."""
        return about_users(written, self._broker)

    def close(self) -> None:
        """Take in the rest and let go of the descriptors; what has come stays."""
        if self.bell < 0:
            return
        with releasing("output") as release:
            if self._owner == os.getpid():
                release(self.look_now)
            release(self._let_go)

    def _let_go(self) -> None:
        held = (self.bell, self._pipe, self.pipe)
        self.bell = self._pipe = self.pipe = -1
        with releasing("output") as release:
            if self._copy is not None:
                release(self._close_file)
            for fd in held:
                if fd >= 0:
                    release(os.close, fd)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
