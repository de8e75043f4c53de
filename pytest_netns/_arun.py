"""Talking to a program from a running event loop: what ``Popen.communicate`` does, awaitable."""

from __future__ import annotations

import contextlib
import io
import os
import select
import subprocess
import time
from typing import Any

from ._awaiting import readable
from ._errors import hide_own_frames
from ._process import Popen

__all__ = ["communicate"]

__tracebackhide__ = hide_own_frames

_PIECE = 1 << 16


async def communicate(program: Popen, data: Any, timeout: float | None) -> tuple[Any, Any]:
    """Give a program its input, take its outputs to their ends, and wait for its own end.

    Raises:
        subprocess.TimeoutExpired: With what had come until then; the program still runs.
    """
    talk = _Talk(program, data)
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        while talk.under_way:
            talk.turn()
            if talk.under_way:
                if deadline is not None and time.monotonic() >= deadline:
                    assert timeout is not None
                    raise subprocess.TimeoutExpired(program.args, timeout, *talk.raw())
                await readable(talk.fileno(), deadline)
    finally:
        talk.close()
    return talk.results()


class _Talk:
    """The pipes of a program and the word of its end, watched by one epoll."""

    def __init__(self, program: Popen, data: Any) -> None:
        self._program = program
        self._watch = select.epoll()
        self._outputs = {
            stream.fileno(): (stream, bytearray()) for stream in (program.stdout, program.stderr) if stream is not None
        }
        self._input = memoryview(_encoded(data, program.stdin) if data else b"")
        self._open = set(self._outputs)
        if program.stdin is not None:
            if self._input:
                self._open.add(program.stdin.fileno())
            else:
                program.stdin.close()
        status = program.status_fd
        if status is not None:
            self._open.add(status)
        for fd in self._open:
            writes = fd not in self._outputs and fd != status
            if fd != status:
                os.set_blocking(fd, False)
            self._watch.register(fd, select.EPOLLOUT if writes else select.EPOLLIN)

    @property
    def under_way(self) -> bool:
        return bool(self._open)

    def fileno(self) -> int:
        return self._watch.fileno()

    def turn(self) -> None:
        """Do what can be done without waiting."""
        for fd, _ in self._watch.poll(0):
            if fd in self._outputs:
                done = self._read(fd)
            elif fd == self._program.status_fd:
                done = True
            else:
                done = self._write(fd)
            if done:
                self._open.discard(fd)
                self._watch.unregister(fd)
                if fd not in self._outputs:
                    self._end(fd)

    def _end(self, fd: int) -> None:
        if fd == self._program.status_fd:
            self._program.poll()
        elif self._program.stdin is not None:
            self._program.stdin.close()

    def _read(self, fd: int) -> bool:
        with contextlib.suppress(BlockingIOError):
            piece = os.read(fd, _PIECE)
            self._outputs[fd][1].extend(piece)
            return not piece
        return False

    def _write(self, fd: int) -> bool:
        try:
            self._input = self._input[os.write(fd, self._input[:_PIECE]) :]
        except BlockingIOError:
            return False
        except BrokenPipeError:  # as communicate does: who does not read is not told
            return True
        return not self._input

    def raw(self) -> tuple[bytes | None, bytes | None]:
        """What has come on stdout and stderr, as bytes; None where there is no pipe."""
        streams = {id(stream): bytes(data) for stream, data in self._outputs.values()}
        return streams.get(id(self._program.stdout)), streams.get(id(self._program.stderr))

    def results(self) -> tuple[Any, Any]:
        """The same as the program's streams would have it: text, where they are text."""
        streams = (self._program.stdout, self._program.stderr)
        stdout, stderr = (_decoded(data, stream) for data, stream in zip(self.raw(), streams, strict=True))
        return stdout, stderr

    def close(self) -> None:
        self._watch.close()


def _encoded(data: Any, stream: Any) -> bytes:
    if isinstance(stream, io.TextIOWrapper):
        return bytes(data.encode(stream.encoding, stream.errors or "strict"))
    return bytes(data)


def _decoded(data: bytes | None, stream: Any) -> Any:
    if data is None or not isinstance(stream, io.TextIOWrapper):
        return data
    return data.decode(stream.encoding, stream.errors or "strict").replace("\r\n", "\n").replace("\r", "\n")
