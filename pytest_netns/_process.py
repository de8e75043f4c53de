"""A program in a host, with the contract of ``subprocess.Popen``; started by the helper, not by a fork of this process.

``Popen``'s constructor, pipes and ``communicate`` stay as they are. Replaced is what touches the child: its start
(``_execute_child``), the wait for it (``_internal_poll``, ``_wait``: the child is not ours, the helper sends its
status) and signals (by pidfd).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import errno
import inspect
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from . import _entry
from ._errors import NetnsError, hide_own_frames
from ._limits import own_limits, room_for_a_program, too_many_files
from ._program import InBackground, not_given

if TYPE_CHECKING:
    from ._broker import Broker

__all__ = ["Popen", "without_frames_of_subprocess"]

__tracebackhide__ = hide_own_frames

#: Above the largest number of a process (PID_MAX_LIMIT, include/linux/threads.h).
_NOBODY = 1 << 23

#: Which ``restore_signals`` is about: Python ignores them, programs are not to.
_RESTORED = [getattr(signal, name) for name in ("SIGPIPE", "SIGXFZ", "SIGXFSZ") if hasattr(signal, name)]
_SIGNALS = sorted(map(int, signal.valid_signals()))

#: Of what is replaced, without ``self``; other versions of Python have others.
_PARAMETERS = list(inspect.signature(getattr(_entry.Popen, "_execute_child")).parameters)[1:]  # noqa: B009


class Popen(_entry.Popen[Any], InBackground):
    """A running program; see ``subprocess.Popen``, whose keywords and methods it has.

    Different is only what cannot be the same: ``preexec_fn`` is refused, because the program is not forked from this
    process; and the program leads a session of its own, so that Ctrl-C and ``kill 0`` stay where they belong.

    And what a program in the background needs: where ``stdout`` or ``stderr`` is not given, what it writes there is
    kept (:attr:`output`, :meth:`wait_output`); and an end with an error counts as one (``check``).
    """

    def __init__(
        self,
        args: Any,
        *positional: Any,
        _entry: _entry.Entry,
        _broker: Broker,
        _keep: bool = False,
        check: bool = True,
        **keywords: Any,
    ) -> None:
        __tracebackhide__ = True
        self._entry = _entry
        self._broker = _broker
        self._pidfd = -1
        self._status: socket.socket | None = None
        preexec = positional[5] if len(positional) > 5 else keywords.get("preexec_fn")
        if preexec is not None:
            raise NetnsError(
                "preexec_fn cannot run in a host: its commands are not forked from this process. "
                "For Python code use host.call(function)"
            )
        self._in_background(not_given(positional, keywords) if _keep else [], check=check)
        try:
            super().__init__(args, *positional, **keywords)
        except BaseException as error:
            if self.kept is not None:
                self.kept.close()
            without_frames_of_subprocess(error)
            raise

    def poll(self) -> int | None:
        """Its return code, or None as long as it runs."""
        code: int | None = super().poll()
        self._told = self._told or code is not None
        return code

    def _execute_child(self, *positional: Any, **keywords: Any) -> None:
        asked = {**dict(zip(_PARAMETERS, positional, strict=False)), **keywords}
        argv = _argv(asked["args"], asked["shell"], asked["executable"])
        executable = asked["executable"] or argv[0]
        sys.audit("subprocess.Popen", executable, argv, asked["cwd"], asked["env"])
        placed = _placed(asked)
        if self.kept is not None:
            placed.update(dict.fromkeys(self._targets, self.kept.pipe))
        spec = _spec(asked, argv, executable, list(placed), self)
        self._start(spec, list(placed.values()), executable, asked["cwd"])
        self._close_pipe_fds(  # type: ignore[attr-defined]
            *(asked[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite"))
        )

    def _start(self, spec: dict[str, Any], fds: list[int], executable: Any, cwd: Any) -> None:
        entry = self._entry
        inside = [entry.net if fd is None else fd for fd in (entry.net, entry.mounts, entry.uts, entry.tag)]
        with contextlib.ExitStack() as undo:
            mine, theirs = socket.socketpair()
            undo.callback(mine.close)
            mine.setblocking(True)  # whatever socket.setdefaulttimeout says
            with theirs:  # closed at once, so that the helper's end, too, is an end of the status
                room_for_a_program(mine.fileno())
                fds = [*inside, theirs.fileno(), *fds, *(self.kept.fds() if self.kept else [])]
                failure, answer = self._broker.request("start", spec, fds=fds)
            if failure is not None:
                raise _start_error(failure, executable, cwd)
            (self._pidfd,) = answer
            undo.callback(self._give_up)
            self.pid = _pid_of(self._pidfd)
            undo.pop_all()
        if self.kept is not None:
            self.kept.started()
        self._status = mine
        self._child_created = True
        _running.add(self)

    def _give_up(self) -> None:
        pidfd, self._pidfd = self._pidfd, -1
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)

    @property
    def status_fd(self) -> int | None:
        """What can be read once the program has ended, for an event loop to watch; None after that was noted."""
        return None if self._status is None else self._status.fileno()

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        if self.returncode is None:
            self._take_status(0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._take_status(left):
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
        self._told = True
        return self.returncode

    def _take_status(self, timeout: float | None) -> bool:
        """Wait for the helper's word on how the program ended; any thread may."""
        status = self._status
        poll = select.poll()
        try:
            if status is None:
                return True
            poll.register(status, select.POLLIN)
        except ValueError:  # another thread was faster, and has closed it
            return True
        if not poll.poll(None if timeout is None else timeout * 1000):
            return False
        with self._waitpid_lock:  # type: ignore[attr-defined]
            if self.returncode is None:
                # Only looked at: a fork of this process may ask, too.
                data = status.recv(4, socket.MSG_PEEK)
                # No word: the helper is gone, and the kernel has killed the program with it.
                known = len(data) == 4
                self.returncode = (
                    os.waitstatus_to_exitcode(int.from_bytes(data, "little")) if known else -signal.SIGKILL
                )
                self._let_go()
                if self.kept is not None:
                    self.kept.look()  # closes it, if nobody else writes there
        return True

    def _let_go(self) -> None:
        status, self._status = self._status, None
        pidfd, self._pidfd = self._pidfd, -1
        if status is not None:
            status.close()
        if pidfd >= 0:
            os.close(pidfd)

    def send_signal(self, sig: int) -> None:
        """Send a signal to the program, unless it has ended."""
        self._internal_poll()
        with self._waitpid_lock:  # type: ignore[attr-defined]
            if self.returncode is None:
                self._end_expected |= sig in _TO_END
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, sig)

    def __del__(self, *_: Any, **__: Any) -> None:
        if getattr(self, "_status", None) is None:
            return
        if self.returncode is None and self._internal_poll() is None:
            warnings.warn(f"subprocess {self.pid} is still running", ResourceWarning, source=self, stacklevel=2)
        # The base class would keep it to wait for it some day; this is not our child, and the helper does.
        self._let_go()


def without_frames_of_subprocess(error: BaseException) -> None:
    """Take them out of the traceback where the error is about the program.

    pytest would show the source of each: 200 lines and more of the constructor, for a mistake in a name.
    """
    step = error.__traceback__
    while step is not None and isinstance(error, (OSError, subprocess.SubprocessError)):
        after = step.tb_next
        while after is not None and after.tb_frame.f_globals is vars(subprocess):
            after = after.tb_next
        step.tb_next = after
        step = after


#: What asks a program to end: however it does then is what the sender wanted.
_TO_END = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)

_running: weakref.WeakSet[Popen] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # Another thread may just have asked how a program has ended; the lock that it held is nobody's here.
    for program in list(_running):
        program._waitpid_lock = threading.Lock()  # type: ignore[attr-defined]


os.register_at_fork(after_in_child=_after_fork_in_child)


def _spec(
    asked: dict[str, Any], argv: list[Any], executable: Any, targets: list[int], program: Popen
) -> dict[str, Any]:
    """What the helper is told, in plain values; see :mod:`pytest_netns._exec`."""
    env = _encoded(asked["env"])
    if b"=" in b"".join(env):
        raise ValueError("illegal environment variable name")
    group: int | None = asked.get("process_group")
    umask, ignored = _fields("/proc/self/status", b"Umask:", b"SigIgn:")
    spec = {
        "argv": [os.fsencode(word) for word in argv],
        "paths": _paths(executable, asked["env"], env),
        "env": env,
        "directory": _own_directory(),
        "cwd": None if asked["cwd"] is None else os.fsencode(asked["cwd"]),
        "targets": targets,
        "mask": sorted(_signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "ignored": _numbers_of(int(ignored, 16), without=_RESTORED if asked["restore_signals"] else ()),
        "new_session": bool(asked["start_new_session"]),
        "process_group": None if group is None or group < 0 else group,
        "umask": asked["umask"] if asked["umask"] >= 0 else int(umask, 8),
        "groups": None if asked["gids"] is None else list(asked["gids"]),
        "gid": asked["gid"],
        "uid": asked["uid"],
        "limits": own_limits(max(targets, default=0)),
        "files": program._entry.mounts is not None,
        "named": program._entry.uts is not None,
        "tagged": program._entry.tag is not None,
    }
    if spec["limits"] == program._broker.limits:
        spec["limits"] = None  # it has them already
    #: Whether nothing is asked that only the new process can do for itself.
    spec["simple"] = all(spec[name] is None for name in ("process_group", "groups", "gid", "uid", "limits"))
    spec["simple"] &= signal.SIGCHLD not in spec["ignored"]  # the helper could not ignore that for a moment
    if b"\0" in b"".join([*spec["argv"], *spec["paths"], *env, *env.values(), spec["cwd"] or b""]):
        raise ValueError("embedded null byte")
    return spec


def _encoded(env: Any) -> dict[bytes, bytes]:
    if env is None:
        return dict(os.environb)
    return {os.fsencode(key): os.fsencode(value) for key, value in env.items()}


def _argv(args: Any, shell: bool, executable: Any) -> list[Any]:
    if isinstance(args, (str, bytes)):
        argv: list[Any] = [args]
    elif isinstance(args, os.PathLike):
        if shell:
            raise TypeError("path-like args is not allowed when shell is true")
        argv = [args]
    else:
        argv = list(args)
    if shell:
        argv = ["/bin/sh", "-c", *argv]
        if executable:
            argv[0] = executable
    return argv


def _paths(executable: Any, env: Any, encoded_env: dict[bytes, bytes]) -> list[bytes]:
    encoded = os.fsencode(executable)
    if os.path.dirname(encoded):
        return [encoded]
    if env is None and b"PATH" in encoded_env:  # what os.get_exec_path would find, but it takes its time
        directories = encoded_env[b"PATH"].split(b":")
    else:
        directories = [os.fsencode(directory) for directory in os.get_exec_path(env)]
    return [directory + b"/" + encoded if directory else encoded for directory in directories]


def _placed(asked: dict[str, Any]) -> dict[int, int]:
    """Which of our descriptors becomes which of the program's."""
    placed: dict[int, int] = {}
    for target, name in enumerate(("p2cread", "c2pwrite", "errwrite")):
        fd = asked[name]
        if fd != -1:
            os.fstat(fd)  # a closed one is an error here, as it is to subprocess
            placed[target] = fd
        elif _inheritable(target):
            placed[target] = target
    kept: Sequence[int] = asked["pass_fds"]
    if not asked["close_fds"]:
        kept = [int(name) for name in os.listdir("/proc/self/fd")]
        kept = [fd for fd in kept if fd > 2 and _inheritable(fd)]
    placed.update({int(fd): int(fd) for fd in kept})
    return placed


def _inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


def _own_directory() -> bytes:
    try:
        return os.getcwdb()
    except FileNotFoundError:  # it has been removed
        return b"/"


def _numbers_of(mask: int, *, without: Collection[int]) -> list[int]:
    # A C library has a few for itself.
    return [number for number in _SIGNALS if mask >> number - 1 & 1 and number not in without]


def _pid_of(pidfd: int) -> int:
    """The number that our own PID namespace knows the process by; of one that is over already, one that nobody has.

    The kernel says -1 then, or 0 where our namespace does not see it: to kill(2) these are everybody, and our group.
    """
    (pid,) = _fields(f"/proc/self/fdinfo/{pidfd}", b"Pid:")
    return int(pid) if int(pid) > 0 else _NOBODY


def _fields(path: str, *names: bytes) -> list[bytes]:
    # From there, for os.umask would change it for a moment, in every thread; and Python does not know what is ignored.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # half the system calls of open
    try:
        words = os.read(fd, 8192).split()
    finally:
        os.close(fd)
    return [words[words.index(name) + 1] for name in names]


def _start_error(failure: tuple[str, int, str], executable: Any, cwd: Any) -> Exception:
    stage, number, text = failure
    if not number:
        return subprocess.SubprocessError(f"Exception occurred while starting {executable!r}: {text}")
    if number == errno.EMFILE:  # it has more open than this process: status and output of every program
        return too_many_files("start", "the helper process")
    name = {"cwd": cwd, "exec": executable}.get(stage)
    message = os.strerror(number)
    return OSError(number, message, name) if name is not None else OSError(number, message)
