"""The way to the helper: started at first use, one for a process and its forks; requests in, descriptors out.

Every process and every thread may ask. A process speaks over a channel of its own: a fork's first request opens one
through the *lobby*, a datagram socket that all share and on which one message is one send, so nothing can mix.
A request that is interrupted half-way throws its channel away; the next request opens another.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import _channel, _probe
from ._errors import KernelError, NamespacesUnavailable, NetnsError, WaitTimeout

__all__ = ["Broker", "broker", "shut_down"]

# The kernel's own clean-up of old networks has been seen to hold the lock that a request needs for 8 s.
_REQUEST_LIMIT = 120.0
_BOOT = "import sys; sys.path.append({root!r}); from pytest_netns._helper import main; main({arguments})"


class Broker:
    """A running helper, and how this process speaks to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel: socket.socket | None = None
        self._log = os.memfd_create("netns-helper-log", os.MFD_CLOEXEC)
        names_read, self._names = os.pipe2(os.O_CLOEXEC)
        self._lobby, lobby = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel, first = _new_channel()
        watched = _processes_to_outlive()
        inherited = [lobby.fileno(), first.fileno(), names_read]
        flags = ["-I", "-S", "-B"] if sys.dont_write_bytecode else ["-I", "-S"]
        arguments = ", ".join([*map(str, inherited), str(watched)])
        root = str(Path(__file__).resolve().parent.parent)
        try:
            # A session of its own: Ctrl-C and a kill of the test's process group leave it time to end what is inside.
            self._process = subprocess.Popen(
                [sys.executable, *flags, "-c", _BOOT.format(root=root, arguments=arguments)],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[*inherited, *watched],
                start_new_session=True,
                cwd="/",
            )
        finally:
            for fd in (*watched, names_read):
                os.close(fd)
            lobby.close()
            first.close()
        self.owner = os.getpid()
        facts, (self.user, self.pid) = self.request("hello")
        #: Whether a user namespace had to be made.
        self.rootless: bool = facts["rootless"]
        self.ipv6: bool = facts["ipv6"]
        self.own_proc: bool = facts["own_proc"]

    def request(self, verb: str, *arguments: object, fds: Sequence[int] = ()) -> tuple[Any, list[int]]:
        """Ask the helper for something; return its value and the descriptors, which the caller then owns.

        Raises:
            KernelError: The kernel refused what was asked.
            NetnsError: The helper has ended.
        """
        with self._lock:
            if self._channel is None:
                self._channel = self._open_channel()
            try:
                _channel.send(self._channel, (verb, *arguments), fds)
                (outcome, *values), answer = _channel.receive(self._channel)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                self._drop_channel()
                raise NetnsError(self._last_words()) from None
            except TimeoutError:
                self._drop_channel()
                raise WaitTimeout(f"the helper did not answer {verb!r} within {_REQUEST_LIMIT:g} s") from None
            except BaseException:
                self._drop_channel()
                raise
        if outcome == "error":
            raise KernelError(*values)
        return values[0], answer

    def note_name(self, path: str, *, taken: bool) -> None:
        """Tell the helper's outer half of a name it must take away if we cannot."""
        os.write(self._names, b"%c%s\n" % (b"+" if taken else b"-", os.fsencode(path)))

    def alive(self) -> bool:
        """Whether the helper still runs."""
        return self._process.returncode is None and self._process.poll() is None

    def close(self) -> None:
        """End the helper and with it everything inside; returns when all of it is gone."""
        with contextlib.suppress(OSError):
            self._lobby.send(b"q")
        self._process.wait(_REQUEST_LIMIT)
        self._let_go()
        for fd in (self._names, self._log, self.user, self.pid):
            os.close(fd)

    def after_fork(self) -> None:
        """In a forked child: keep what is shared, let go of what is the parent's."""
        self._lock = threading.Lock()
        self._drop_channel()

    def _let_go(self) -> None:
        self._drop_channel()
        self._lobby.close()

    def _drop_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _open_channel(self) -> socket.socket:
        mine, theirs = _new_channel()
        with theirs:
            try:
                socket.send_fds(self._lobby, [b"c"], [theirs.fileno()])
            except OSError:
                mine.close()
                raise NetnsError(self._last_words()) from None
        return mine

    def _last_words(self) -> str:
        said = os.pread(self._log, 65536, 0).decode(errors="replace").strip()
        return "the helper process has ended, and with it every network it held" + (f"; it said:\n{said}" if said else "")


def _new_channel() -> tuple[socket.socket, socket.socket]:
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    mine.settimeout(_REQUEST_LIMIT)
    return mine, theirs


def _processes_to_outlive() -> list[int]:
    """Pidfds of the processes whose end is the end of the helper."""
    pids = [os.getpid()]
    if "PYTEST_XDIST_WORKER" in os.environ:
        # A worker whose controller was killed would live on until its test is over.
        pids.append(os.getppid())
    return [os.pidfd_open(pid) for pid in pids]


_current: Broker | None = None
_unavailable: str | None = None
_start_lock = threading.Lock()


def broker() -> Broker:
    """Return this process's helper, started if need be.

    Raises:
        NamespacesUnavailable: This machine does not allow it; the message says why and what to type.
    """
    global _current, _unavailable  # noqa: PLW0603 - one helper a process is the point
    if _current is not None:
        return _current
    with _start_lock:
        if _current is None:
            if _unavailable is None:
                _unavailable = _probe.unsupported_platform()
            if _unavailable is None:
                try:
                    _current = Broker()
                except KernelError as error:
                    _unavailable = _probe.explain(error.errno or 0, str(error.strerror).split(":")[0])
            if _current is None:
                raise NamespacesUnavailable(_unavailable)
        return _current


def shut_down() -> None:
    """End this process's helper, if it has one; the next use starts another."""
    global _current  # noqa: PLW0603
    with _start_lock:
        if _current is not None and _current.owner == os.getpid():
            _current.close()
        _current = None


def _after_fork_in_child() -> None:
    global _start_lock  # noqa: PLW0603
    _start_lock = threading.Lock()
    if _current is not None:
        _current.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(shut_down)
