"""Frames with descriptors over a stream socket; what the test process and its helper speak.

A frame is a length, then that many bytes. Descriptors travel with the first byte (unix(7), SCM_RIGHTS). Both
ends run the same interpreter, so ``marshal`` serves as the encoding of plain values. One frame is under way
at a time, so a read takes what is there and never more than the frame.

The helper's start is part of the first test's time: ``socket`` and ``array`` would cost it a dozen more
imports, so their parts in C do here.
"""

from __future__ import annotations

import _socket
import errno
import marshal
import os
import sys
from _socket import MSG_CMSG_CLOEXEC, MSG_CTRUNC, SCM_RIGHTS, SOL_SOCKET

TYPE_CHECKING = False  # importing typing takes as long as everything else here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = ["MAX_FDS", "TruncatedError", "hand_over", "receive", "receive_message", "send"]

_HEADER = 8
_INT = 4
_FIRST_READ = 16384
#: SCM_MAX_FD of include/net/scm.h: the kernel takes no more descriptors in one message.
MAX_FDS = 253
_SPACE = _socket.CMSG_SPACE(MAX_FDS * _INT)


class TruncatedError(OSError):
    """Descriptors that were sent could not be taken: this process has too many open."""


def send(sock: _socket.socket, value: Any, fds: Sequence[int] = ()) -> None:
    """Send one plain value and duplicates of ``fds``.

    Raises:
        TypeError: ``value`` is more than plain (``marshal`` does not take it).
        ValueError: There are more descriptors than one message takes. Nothing has been sent in either case.
    """
    frame = _frame(value, fds)
    sent = _send_first(sock, frame, fds)
    if sent < len(frame):
        sock.sendall(frame[sent:])


def hand_over(sock: _socket.socket, value: Any, fds: Sequence[int]) -> None:
    """As :func:`send`, but ``fds`` are closed here, whatever happens, and before the frame is complete.

    So whoever has received it has them alone, and when closing a socket ends it.
    """
    try:
        frame = _frame(value, fds)
        sent = _send_first(sock, frame[:_HEADER] if fds else frame, fds)
    finally:
        for fd in fds:
            os.close(fd)
    if sent < len(frame):
        sock.sendall(frame[sent:])


def _frame(value: Any, fds: Sequence[int]) -> bytes:
    if len(fds) > MAX_FDS:
        raise ValueError(f"{len(fds)} descriptors cannot be sent to another process: {MAX_FDS} at most")
    try:
        data = marshal.dumps(value)
    except ValueError as error:
        raise TypeError(f"{value!r} cannot be sent to another process: {error}") from None
    return len(data).to_bytes(_HEADER, sys.byteorder) + data


def _send_first(sock: _socket.socket, data: bytes, fds: Sequence[int]) -> int:
    if not fds:
        return sock.send(data)
    packed = b"".join([fd.to_bytes(_INT, sys.byteorder) for fd in fds])
    return sock.sendmsg([data], [(SOL_SOCKET, SCM_RIGHTS, packed)])


def receive(sock: _socket.socket) -> tuple[Any, list[int]]:
    """Return one value and the descriptors that came with it, which the caller then owns.

    Raises:
        EOFError: The other end is gone.
        TruncatedError: The frame is read, but descriptors were lost; those that came are closed.
    """
    data, fds, lost = _take(sock)
    try:
        if len(data) < _HEADER:
            data += _exactly(sock, _HEADER - len(data))
        missing = _HEADER + int.from_bytes(data[:_HEADER], sys.byteorder) - len(data)
        if missing:
            data += _exactly(sock, missing)
        if lost:
            raise TruncatedError(errno.EMFILE, os.strerror(errno.EMFILE))
        return marshal.loads(memoryview(data)[_HEADER:]), fds
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def receive_message(sock: _socket.socket) -> tuple[bytes, list[int]]:
    """Return one short message of a socket that keeps them apart, and its descriptors.

    Raises:
        EOFError: Nobody is left to send.
        TruncatedError: Descriptors were lost; those that came are closed.
    """
    data, fds, lost = _take(sock)
    if lost:
        for fd in fds:
            os.close(fd)
        raise TruncatedError(errno.EMFILE, os.strerror(errno.EMFILE))
    if not data:
        raise EOFError("the other end of the channel is gone")
    return data, fds


def _take(sock: _socket.socket) -> tuple[bytes, list[int], bool]:
    data, ancillary, flags, _ = sock.recvmsg(_FIRST_READ, _SPACE, MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, packed in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            whole = len(packed) - len(packed) % _INT
            fds += [int.from_bytes(packed[at : at + _INT], sys.byteorder) for at in range(0, whole, _INT)]
    return data, fds, bool(flags & MSG_CTRUNC)


def _exactly(sock: _socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise EOFError("the other end of the channel is gone")
        data += piece
    return bytes(data)
