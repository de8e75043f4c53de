"""The way to the helper: started at first use, one for a process and its forks; requests in, descriptors out.

A second one is for labs in which programs are uid 0, without root: that takes another user namespace.

Every process and every thread may ask. A process speaks over a channel of its own: a fork's first request
opens one through the *lobby*, a socket that all share and on which one message is one send, so nothing can mix. What
needs no answer goes over the lobby, too. A request that is interrupted half-way throws its channel away; the next one
opens another.

A helper that is gone takes its networks with it, and they say so. The next network starts a new helper.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import select
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from . import _channel, _probe
from ._errors import KernelError, NamespacesUnavailable, NetnsError, WaitTimeout, hide_own_frames
from ._farewell import end_processes
from ._launch import REQUEST_LIMIT, launch, new_channel, socket_pair
from ._limits import limits_to_inherit, too_many_files
from ._tags import Tags

__all__ = ["Broker", "broker", "shut_down", "start"]

__tracebackhide__ = hide_own_frames

_END_LIMIT = 10.0
_RAISED = {kind.__name__: kind for kind in (TypeError, ValueError, OverflowError)}


class _RefusedError(Exception):
    """The helper could not be what it has to be here; the kernel's number, and the step."""


class Broker:
    """A running helper, and how this process speaks to it."""

    def __init__(self, *, as_root: bool = False) -> None:
        self._lock = threading.Lock()
        self._channel: socket.socket | None = None
        self._facts: dict[str, Any] | None = None
        self._namespaces: list[int] = []
        self._said: str | None = None  # once it is over
        #: Whether there may be anybody inside: something has been told how to get there, by this process or, for all we
        #: know, by a fork of it. (Of one that C code has made by itself, Python does not know.)
        self.inhabited = False
        self.owner = os.getpid()
        #: What the helper and all it starts inherit.
        self.limits = limits_to_inherit()
        self.tags = Tags(lambda: self.request("tag")[1])
        with contextlib.ExitStack() as undo:
            self._log = os.memfd_create("netns-helper-log", os.MFD_CLOEXEC)
            undo.callback(os.close, self._log)
            self._lobby, lobby = new_channel(socket.SOCK_SEQPACKET)
            undo.callback(self._lobby.close)
            with lobby:
                self._names, names = socket_pair(socket.SOCK_SEQPACKET)
                undo.callback(self._names.close)
                with names:
                    self._channel, first = new_channel()
                    undo.callback(self._drop_channel)
                    with first:
                        fds = lobby.fileno(), first.fileno(), names.fileno(), self._log
                        self._process = launch(*fds, as_root=as_root)
            self._ended = os.pidfd_open(self._process.pid)
            undo.pop_all()

    def greet(self) -> None:
        """Wait until the helper has started; may be called again.

        Raises:
            _RefusedError: This machine does not allow it.
        """
        with self._lock:
            if self._facts is None:
                self._facts, self._namespaces = self._ask("hello", (), ())
                #: Whether a user namespace had to be made.
                self.rootless: bool = self._facts["rootless"]
                #: Whether who runs inside has the capabilities that networks need, and no others.
                self.confines: bool = self._facts["confines"]
                self.ipv6: bool = self._facts["ipv6"]
                self.own_proc: bool = self._facts["own_proc"]
                #: Whether a block of calls can tell what it has left running.
                self.has_tags: bool = self._facts["tags"]

    @property
    def was_heard(self) -> bool:
        """Whether it has answered this process, or its parent."""
        return self._facts is not None

    @property
    def user(self) -> int:
        """Descriptor of the user namespace that owns the networks; it stays ours.

        Raises:
            NetnsError: The helper has ended.
        """
        return self._namespace(0)

    @property
    def pid(self) -> int:
        """Descriptor of the PID namespace that everything inside is in; see :attr:`user`. Whoever asks is to enter."""
        self.inhabited = True
        return self._namespace(1)

    def _namespace(self, number: int) -> int:
        if self._said is not None:
            raise NetnsError(self._last_words())
        return self._namespaces[number]

    def request(self, verb: str, *arguments: object, fds: Sequence[int] = ()) -> tuple[Any, list[int]]:
        """Ask the helper for something; return its value and the descriptors, which the caller then owns.

        Raises:
            KernelError: The kernel refused what was asked.
            TypeError, ValueError, OverflowError: No system call takes such a value.
            NetnsError: The helper has ended.
        """
        with self._lock:
            return self._ask(verb, arguments, fds)

    def _ask(self, verb: str, arguments: Sequence[object], fds: Sequence[int]) -> tuple[Any, list[int]]:
        if self._channel is None:
            self._channel = self._open_channel()
        try:
            with contextlib.suppress(BrokenPipeError):
                # A helper that could not start has ended, but has said why; that is there to be read.
                _channel.send(self._channel, (verb, *arguments), fds)
            (outcome, *values), answer = _channel.receive(self._channel)
        except _channel.TruncatedError:
            raise too_many_files(verb) from None
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._drop_channel()
            raise NetnsError(self._last_words()) from None
        except BlockingIOError:  # SO_RCVTIMEO, SO_SNDTIMEO
            self._drop_channel()
            raise WaitTimeout(f"the helper did not answer {verb!r} within {REQUEST_LIMIT:g} s") from None
        except (TypeError, ValueError):
            raise  # not sent
        except BaseException:
            self._drop_channel()
            raise
        if outcome != "ok":
            _raise_refusal(f"{verb} {arguments!r}", outcome, *values)
        return values[0], answer

    def end_processes(self, kind: str, inodes: Sequence[int], bridges: Sequence[tuple[bytes, int]] = ()) -> int:
        """End every process in these namespaces, wait until all are gone, and return how many there were.

        A helper that is gone has taken them along. ``bridges``: see :func:`._farewell.end_processes`.
        """
        if not self.inhabited:
            for like, fd in bridges:
                along = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
                with contextlib.suppress(OSError):  # it is not kept, then
                    self._lobby.sendmsg([b"k" + like], along, socket.MSG_DONTWAIT)  # send_fds takes no flags
            return 0
        try:
            return end_processes(self.request, kind, inodes, bridges)
        except NetnsError:
            if self.alive():
                raise
            return 0

    def bind_name(self, path: str, namespace: int) -> None:
        """Have the helper's outer half give a namespace a name, and take it away if we cannot.

        Raises:
            KernelError: ``errno`` is EEXIST if the name is taken.
        """
        self._ask_for_name(b"+", path, [namespace])

    def unbind_name(self, path: str, namespace: int) -> None:
        """Take it away, if it is still that namespace's; where the helper is gone it has done so already."""
        with contextlib.suppress(NetnsError):
            self._ask_for_name(b"-", path, [namespace])

    def _ask_for_name(self, verb: bytes, path: str, fds: list[int]) -> None:
        # Forks share this socket, so each answer comes over a pipe of its own.
        answer, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                socket.send_fds(self._names, [verb + os.fsencode(path)], [theirs, *fds])
            except (BrokenPipeError, ConnectionResetError):
                raise NetnsError(self._last_words()) from None
            finally:
                os.close(theirs)
            number = os.read(answer, 4)
        finally:
            os.close(answer)
        if not number:
            raise NetnsError(self._last_words())
        code = int.from_bytes(number, sys.byteorder)
        if code:
            raise KernelError(code, os.strerror(code), path)

    def alive(self) -> bool:
        """Whether the helper still runs; forks may ask, too."""
        return self._said is None and not self._ends_within(0)

    def _ends_within(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        """End the helper and with it everything inside; returns when all of it is gone."""
        with contextlib.suppress(OSError):
            self._lobby.send(b"q")
        try:
            if not self._ends_within(REQUEST_LIMIT):  # Popen's own wait with a limit sleeps in between
                raise WaitTimeout(f"the helper process did not end within {REQUEST_LIMIT:g} s")
            self._process.wait()
        finally:
            self._let_go()

    def let_go(self) -> None:
        """Give up on a helper that has ended by itself, or that is the parent's."""
        if self.owner == os.getpid():
            self._process.poll()  # reaps it
        else:
            self._process.returncode = 0  # not our child, which Popen need not complain of
        self._let_go()

    def after_fork(self) -> None:
        """In a forked child: keep what is shared, let go of what is the parent's."""
        self._lock = threading.Lock()
        self._drop_channel()
        self.tags.forget()
        self.inhabited = True  # the parent's affair

    def _let_go(self) -> None:
        if self._said is None:
            self._said = self._read_log()
            self._drop_channel()
            self._lobby.close()
            self._names.close()
            self.tags.forget()
            for fd in (self._log, self._ended, *self._namespaces):
                os.close(fd)

    def _drop_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _open_channel(self) -> socket.socket:
        mine, theirs = new_channel()
        with theirs:
            try:
                socket.send_fds(self._lobby, [b"c"], [theirs.fileno()])
            except OSError:
                mine.close()
                raise NetnsError(self._last_words()) from None
        return mine

    def _last_words(self) -> str:
        said = self._said
        if said is None:
            # It goes piece by piece. Wait, so that whoever asks next finds it gone and starts another.
            if not self._ends_within(_END_LIMIT):
                return "the helper process has closed its channel to this process"
            said = self._read_log()
        return "the helper process has ended, and with it every network it held" + (
            f"; it said:\n{said}" if said else ""
        )

    def _read_log(self) -> str:
        return os.pread(self._log, 65536, 0).decode(errors="replace").strip()


def _raise_refusal(asked: str, outcome: str, *values: Any) -> NoReturn:
    if outcome == "raised":
        kind, message = values
        raise _RAISED.get(kind, NetnsError)(f"{asked}: {message}")
    number, message = values
    if outcome == "unavailable":
        raise _RefusedError(number, message)
    if number == errno.ENOSPC and "CLONE_" in message:
        message = _probe.explain(number, message.split(":")[0])
    if number == errno.EMFILE:  # it has more of them than this process: what programs write goes through a pipe there
        raise too_many_files(asked.partition(" ")[0], "the helper process")
    raise KernelError(number, message)


#: By whether who runs inside is to be uid 0 without being root.
_current: dict[bool, Broker] = {}
_unavailable: dict[bool, str] = {}
#: The kinds of helper that have ever started; then this machine does allow them.
_has_worked: set[bool] = set()
_start_lock = threading.Lock()


def start(*, as_root: bool = False) -> Broker:
    """Begin to start this process's helper, if need be; what it takes to start is for the caller to use.

    Args:
        as_root: The one inside of which we are uid 0. Whoever is that anyway has only one.

    Raises:
        NamespacesUnavailable: This machine does not allow it; the message says why and what to type.
        KernelError: It would, but is out of processes, memory or descriptors.
    """
    with _start_lock:
        as_root = _is_another(as_root)
        held = _current.get(as_root)
        # One that has ended and was not yet heard may have said why this machine does not allow it. A fork cannot hear.
        if held is not None and not held.alive() and (held.was_heard or held.owner != os.getpid()):
            _current.pop(as_root).let_go()
        if as_root not in _current:
            reason = _unavailable.get(as_root) or _probe.unsupported_platform()
            if reason is not None:
                raise NamespacesUnavailable(reason)
            try:
                _current[as_root] = Broker(as_root=as_root)
            except OSError as error:
                message = f"start the helper process: {error.strerror}"
                raise KernelError(error.errno, message) from None
        return _current[as_root]


def _is_another(as_root: bool) -> bool:
    # In a child that runs in such a lab we are uid 0 as well, and it is the helper of that lab that is ours.
    return as_root and (True in _current or os.geteuid() != 0)


def broker(*, as_root: bool = False) -> Broker:
    """Return this process's helper, started if need be.

    Args:
        as_root: As in :func:`start`.

    Raises:
        NamespacesUnavailable: This machine does not allow it; the message says why and what to type.
        KernelError: It would, but is out of processes, memory or descriptors.
    """
    as_root = _is_another(as_root)
    found = start(as_root=as_root)
    try:
        found.greet()
    except (_RefusedError, KernelError) as refused:
        with _start_lock:
            if _current.get(as_root) is found:
                _current.pop(as_root).close()
            if isinstance(refused, KernelError):
                raise KernelError(refused.errno, f"start the helper process: {refused.strerror}") from None
            number, step = refused.args
            if as_root in _has_worked:  # so the machine allows it, but not now
                raise KernelError(number, f"start the helper process: {step}") from None
            reason = _unavailable[as_root] = _probe.explain(number, str(step).split(":")[0])
        raise NamespacesUnavailable(reason) from None
    except NetnsError:
        with _start_lock:
            if _current.get(as_root) is found and not found.alive():  # the next one is another
                _current.pop(as_root).let_go()
        raise
    _has_worked.add(as_root)
    return found


def shut_down() -> None:
    """End this process's helpers, if it has any; the next use starts another."""
    with _start_lock:
        while _current:
            _, ended = _current.popitem()
            if ended.owner == os.getpid():
                ended.close()
            else:
                ended.let_go()


def _after_fork_in_child() -> None:
    global _start_lock  # noqa: PLW0603
    _start_lock = threading.Lock()
    for held in _current.values():
        held.after_fork()


def _after_fork_in_parent() -> None:
    for held in list(_current.values()):  # another thread may start one
        held.inhabited = True  # the child may start something


os.register_at_fork(after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(shut_down)
