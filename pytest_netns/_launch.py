"""Starts the helper's process, a fresh interpreter, and makes the sockets that lead to it."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["REQUEST_LIMIT", "launch", "new_channel", "socket_pair"]

#: Seconds for an answer. The kernel's own clean-up of old networks has been seen to hold the lock that a
#: request needs for 8 s.
REQUEST_LIMIT = 120.0

#: The package is put together by hand: its ``__init__`` and other packages are not for the helper.
_BOOT = (
    "import sys; package = sys.modules['pytest_netns'] = type(sys)('pytest_netns'); "
    "package.__path__ = [{folder!r}]; from pytest_netns._boot import main; main({arguments})"
)


def launch(lobby: int, first: int, names: int, log: int, *, as_root: bool) -> subprocess.Popen[bytes]:
    """Start it; the arguments are its descriptors, and where its last words go."""
    watched = _processes_to_outlive()
    flags = ["-I", "-S", "-B"] if sys.dont_write_bytecode else ["-I", "-S"]
    folder = str(Path(__file__).resolve().parent)
    boot = _BOOT.format(folder=folder, arguments=f"{lobby}, {first}, {names}, {watched}, {as_root}")
    try:
        # A session of its own: Ctrl-C and a kill of the test's group leave it time to end what is inside.
        return subprocess.Popen(
            [sys.executable, *flags, "-c", boot],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lobby, first, names, *watched],
            start_new_session=True,
            cwd="/",
        )
    finally:
        for fd in watched:
            os.close(fd)


def _processes_to_outlive() -> Sequence[int]:
    """Pidfds of the processes whose end is the end of the helper."""
    pids = [os.getpid()]
    if "PYTEST_XDIST_WORKER" in os.environ:
        # A worker whose controller was killed would live on until its test is over.
        pids.append(os.getppid())
    return [os.pidfd_open(pid) for pid in pids]


def socket_pair(kind: int) -> tuple[socket.socket, socket.socket]:
    """Two sockets that block, whatever ``socket.setdefaulttimeout`` says; both ends would see that."""
    pair = socket.socketpair(socket.AF_UNIX, kind)
    for sock in pair:
        sock.settimeout(None)
    return pair


def new_channel(kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
    """A way to the helper, whose first end gives up after ``REQUEST_LIMIT`` seconds."""
    mine, theirs = socket_pair(kind)
    # By the kernel: Python's own time-outs poll before each read and write, which doubles the system calls.
    limit = struct.pack("ll", int(REQUEST_LIMIT), 0)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        mine.setsockopt(socket.SOL_SOCKET, option, limit)
    return mine, theirs
