"""Frames with descriptors over a stream socket; shared by the helper, which is why it needs only the standard library.

A frame is a length, then that many bytes. Descriptors travel with the first byte (unix(7), SCM_RIGHTS). Both ends
run the same interpreter, so ``marshal`` serves as the encoding of plain values.
"""

from __future__ import annotations

import array
import marshal
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

__all__ = ["MAX_FDS", "receive", "send"]

_HEADER = struct.Struct("=Q")
#: SCM_MAX_FD of include/net/scm.h: the kernel takes no more descriptors in one message.
MAX_FDS = 253


def send(sock: socket.socket, value: object, fds: Sequence[int] = ()) -> None:
    """Send one plain value (whatever ``marshal`` takes) and duplicates of ``fds``."""
    data = marshal.dumps(value)
    frame = _HEADER.pack(len(data)) + data
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([frame], rights)
    if sent < len(frame):
        sock.sendall(frame[sent:])


def receive(sock: socket.socket) -> tuple[Any, list[int]]:
    """Return one value and the descriptors that came with it, which the caller then owns.

    Raises:
        EOFError: The other end is gone.
    """
    space = socket.CMSG_SPACE(MAX_FDS * 4)
    header, ancillary, _, _ = sock.recvmsg(_HEADER.size, space, socket.MSG_CMSG_CLOEXEC | socket.MSG_WAITALL)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    try:
        if len(header) < _HEADER.size:
            raise EOFError("the other end of the channel is gone")
        return marshal.loads(_exactly(sock, _HEADER.unpack(header)[0])), list(fds)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise EOFError("the other end of the channel is gone")
        data += piece
    return bytes(data)
