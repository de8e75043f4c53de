"""What a child writes down as it goes, so that nothing of it is lost however the child ends.

A file in memory: the child appends to it, and the parent reads it when the child has ended. It holds what was
done to output streams that are only memory (pytest's ``--capture=sys``, ``capsys``), which would end with the
child, and the reports of subtests. A second file takes the stacks of a crash.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

from . import _transfer

__all__ = ["Journal", "Mirrors", "replay"]

#: Kinds of entries.
STREAM, SUBREPORT = b"s", b"r"

_STREAMS = ("stdout", "stderr")


class Journal:
    """Written by one child, read by its parent."""

    def __init__(self) -> None:
        self._entries = os.memfd_create("netns-journal", os.MFD_CLOEXEC)
        self._crash = os.memfd_create("netns-crash", os.MFD_CLOEXEC)
        self._lock = threading.Lock()

    def write(self, kind: bytes, value: Any) -> None:
        """Append an entry, from any thread of the child."""
        data = memoryview(b"".join(_transfer.frame(kind, pickle.dumps(value))))
        with self._lock:
            while data:
                data = data[os.write(self._entries, data) :]

    def note(self, name: str, done: tuple[int, bytes | None]) -> None:
        """Append what was done to the stream of that name; see :func:`replay`."""
        self.write(STREAM, (name, done))

    def read(self) -> list[tuple[bytes, Any]]:
        """All whole entries; the child may have died in the middle of one."""
        data = bytearray()
        while piece := os.pread(self._entries, 1 << 20, len(data)):
            data += piece
        return [(kind, _transfer.unpack(body)) for kind, body in _transfer.cut_frames(data)]

    @property
    def crash_file(self) -> int:
        """Where ``faulthandler`` is to write, as a descriptor."""
        return self._crash

    def crash(self) -> str:
        """What ``faulthandler`` has written."""
        return os.pread(self._crash, 1 << 16, 0).decode(errors="replace").rstrip()

    def close(self) -> None:
        """Let go of the files."""
        os.close(self._entries)
        os.close(self._crash)


class _Mirrored(io.BytesIO):
    """Memory under a stream of the child; the parent does to its own what is written down here."""

    def __init__(self, content: bytes, note: Callable[[tuple[int, bytes | None]], None]) -> None:
        super().__init__(content)
        self.seek(0, os.SEEK_END)
        self._note: Callable[[tuple[int, bytes | None]], None] | None = note
        self._owner = os.getpid()

    def write(self, data: Any) -> int:
        position = self.tell()
        count = super().write(data)
        self._tell_parent(position, bytes(data))
        return count

    def truncate(self, size: int | None = None) -> int:
        size = super().truncate(size)
        self._tell_parent(size, None)
        return size

    def _tell_parent(self, position: int, data: bytes | None) -> None:
        if self._note is not None and os.getpid() == self._owner:  # a fork of the child has memory of its own
            self._note((position, data))

    def forget(self) -> None:
        """Be empty, and write nothing down any more."""
        self._note = None
        self.truncate(0)


class Mirrors:
    """In the child: the in-memory streams among stdout and stderr, mirrored from here on."""

    def __init__(self, journal: Journal) -> None:
        self._made: list[_Mirrored] = []
        for name in _STREAMS:
            stream = getattr(sys, name)
            memory = _memory_of(stream)
            if memory is not None:
                made = _Mirrored(memory.getvalue(), functools.partial(journal.note, name))
                # The stream object stays the one that everybody knows; only what it writes to is another.
                io.TextIOWrapper.__init__(
                    stream,
                    made,
                    encoding=stream.encoding,
                    errors=stream.errors,
                    newline="",
                    write_through=True,
                )
                self._made.append(made)

    def close(self) -> None:
        """Stop; the streams are then empty, so that nobody sends their content a second time."""
        for made in self._made:
            made.forget()


def replay(name: str, done: tuple[int, bytes | None]) -> None:
    """In the parent: do to the memory under a stream what the child has done to its own."""
    memory = _memory_of(getattr(sys, name))
    if memory is None:
        return
    position, data = done
    memory.seek(position)
    if data is None:
        memory.truncate()
    else:
        memory.write(data)


def _memory_of(stream: Any) -> io.BytesIO | None:
    if not isinstance(stream, io.TextIOWrapper):
        return None
    with contextlib.suppress(ValueError):  # detached
        memory = stream.buffer
        if isinstance(memory, io.BytesIO):
            return memory
    return None
