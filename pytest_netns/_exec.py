"""From the helper to the program asked for: namespaces, descriptors, directory, identity, limits, exec.

Follows what ``subprocess`` promises of its keywords. There are two ways. Most programs are spawned by the helper
itself, which stands in the host meanwhile: that is ``vfork``, which copies nothing (posix_spawn(3)). What only the new
process can do for itself (a user, a group, limits) takes a fork, and so does whatever the first way cannot do
here.

A failure is ``(stage, errno, text)``: ``cwd`` and ``exec`` are about a path, and errno 0 is an error in Python.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import errno
import fcntl
import os
import signal

from . import _kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Failure = tuple[str, int, str]

__all__ = ["Place", "make_room", "start"]

#: What this interpreter ignores.
_IGNORED = [getattr(signal, name) for name in ("SIGPIPE", "SIGXFZ", "SIGXFSZ") if hasattr(signal, name)]

_KINDS = (
    (_kernel.CLONE_NEWNET, "network namespace"),
    (_kernel.CLONE_NEWNS, "mount namespace"),
    (_kernel.CLONE_NEWUTS, "UTS namespace"),
    (_kernel.CLONE_NEWTIME, "time namespace"),
)


#: The helper's limit of open files, which programs inherit, as it was before it was raised; None if it has not been.
_usual: tuple[int, int] | None = None


def make_room(needed: int) -> None:
    """Raise the soft limit of open files to the hard one if it is below that; programs still start with the old one."""
    global _usual  # noqa: PLW0603 - a limit is one of the process
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed > soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        _usual = soft, hard


def _put_limit_back() -> None:
    if _usual is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, _usual)


class Place:
    """Where a program starts, as descriptors of namespaces; as a context, a stay of the helper itself there.

    During a stay the helper has no more privilege than the program is to have: what the user may not open stays shut.
    """

    def __init__(self, inside: list[int | None], outside: list[int | None], *, confined: bool) -> None:
        """Network, mount, UTS and time namespace, None where it has none of its own; ``outside`` is the helper's."""
        self._steps: list[tuple[int, int | None, int, str]] = [
            (fd, back, flag, what)
            for fd, back, (flag, what) in zip(inside, outside, _KINDS, strict=True)
            if fd is not None
        ]
        self._confined = confined

    def enter(self) -> None:
        """Go there for good."""
        for fd, _, flag, what in self._steps:
            _kernel.setns(fd, flag, what)
        if self._confined:
            _kernel.keep_network_capabilities()

    def __enter__(self) -> None:
        self._lent: int | None = None
        try:
            for fd, _, flag, what in self._steps:
                _kernel.setns(fd, flag, what)
            if self._confined:
                self._lent = _kernel.lend_network_capabilities()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self._lent is not None:
            _kernel.take_capabilities_back(self._lent)
        refusal = None
        for _fd, back, flag, what in reversed(self._steps):
            try:
                if back is not None:
                    _kernel.setns(back, flag, what)
            except OSError as error:  # out of the others in any case
                refusal = error
        os.chdir("/")  # not to keep a directory of the user's busy
        if refusal is not None:
            raise refusal


def start(spec: dict[str, Any], fds: list[int], place: Place) -> tuple[int, Failure | None]:
    """Start the program and return its pid; ``fds[i]`` becomes descriptor ``spec['targets'][i]``."""
    if spec["simple"]:
        try:
            with place:
                return _spawn(spec, fds)
        except NotImplementedError:
            pass
    return _fork(spec, fds, place)


def _spawn(spec: dict[str, Any], fds: list[int]) -> tuple[int, Failure | None]:
    """By posix_spawn(3), from where the program is to start; directory and umask are others afterwards.

    Raises:
        NotImplementedError: Not in this way.
    """
    try:
        os.chdir(spec["directory"])
        if spec["cwd"] is not None:
            os.chdir(spec["cwd"])
    except OSError as error:
        return 0, ("cwd", error.errno or 0, "")
    os.umask(spec["umask"])
    targets = spec["targets"]
    begun, gone_at_exec = os.pipe2(os.O_CLOEXEC)
    held = [gone_at_exec]
    try:
        held += _above([gone_at_exec, *fds], targets)
        if _usual is not None and max(held) >= _usual[0]:
            raise NotImplementedError  # it knows descriptors only that are within the limit
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, fd, target) for fd, target in zip(held[2:], targets, strict=True)]
        actions += [(os.POSIX_SPAWN_CLOSE, fd) for fd in (0, 1, 2) if fd not in targets]
        pid = _spawn_first(spec, actions)
        while held:
            os.close(held.pop())
        # We go on when the new program has its memory; the process has its name only after what is closed at exec
        # (begin_new_exec, fs/exec.c). Whoever asked for it may look at it, as after subprocess.Popen.
        os.read(begun, 1)
        return pid, None
    except OSError as error:
        return 0, ("exec", error.errno or 0, "")
    finally:
        for fd in (begun, *held):
            os.close(fd)


def _spawn_first(spec: dict[str, Any], actions: list[Any]) -> int:
    # Ignored signals stay so over exec (signal(7)).
    before = [(number, _signal.signal(number, _signal.SIG_IGN)) for number in spec["ignored"]]
    try:
        return _spawn_path(spec, actions)
    finally:
        for number, handler in before:
            _signal.signal(number, handler)


def _spawn_path(spec: dict[str, Any], actions: list[Any]) -> int:
    failures = []
    for path in spec["paths"]:
        try:
            os.stat(path)  # cheaper than to find out in a new process
            return _with_usual_limit(
                os.posix_spawn,
                path,
                spec["argv"],
                spec["env"],
                file_actions=actions,
                # A program signals its own group (kill 0) without hitting its neighbours.
                setsid=True,
                setsigmask=spec["mask"],
                setsigdef=[number for number in _IGNORED if number not in spec["ignored"]],
            )
        except OSError as error:
            if error.errno == errno.EINVAL:  # something of it is not known here
                raise NotImplementedError from None
            failures.append(error)
    raise _telling(failures)


def _with_usual_limit(spawn: Callable[..., int], *arguments: Any, **keywords: Any) -> int:
    if _usual is None:
        return spawn(*arguments, **keywords)
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, _usual)
    try:
        return spawn(*arguments, **keywords)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_usual[1], _usual[1]))


def _fork(spec: dict[str, Any], fds: list[int], place: Place) -> tuple[int, Failure | None]:
    errors, error_pipe = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            pid = os.fork()
            if pid == 0:
                _become(spec, fds, place, error_pipe)
        finally:
            os.close(error_pipe)
        return pid, _read_failure(errors)
    finally:
        os.close(errors)


def _become(spec: dict[str, Any], fds: list[int], place: Place, error_pipe: int) -> None:
    """Turn this process into the program; never returns. A failure before exec is written to the pipe."""
    stage = "start"
    try:
        _signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        place.enter()
        if spec["limits"] is not None:
            _make_room(dict(spec["limits"]))
        error_pipe = _place(fds, spec["targets"], error_pipe)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_DFL)
        for number in spec["ignored"]:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, spec["mask"])
        stage = "cwd"
        os.chdir(spec["directory"])
        if spec["cwd"] is not None:
            os.chdir(spec["cwd"])
        stage = "identity"
        _identify(spec)
        stage = "exec"
        _exec_first(spec["paths"], spec["argv"], spec["env"])
    except OSError as error:
        os.write(error_pipe, f"{stage} {error.errno} ".encode())
    except BaseException as error:
        os.write(error_pipe, f"{stage} 0 {error!r}".encode()[:500])
    finally:
        os._exit(255)


def _make_room(limits: dict[int, tuple[int, int]]) -> None:
    """Take the caller's limit of open files while it is the higher one: it has descriptors of such numbers."""
    import resource

    soft, hard = limits[resource.RLIMIT_NOFILE]
    own_soft, own_hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft > own_soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, max(hard, own_hard)))


def _place(fds: list[int], targets: list[int], error_pipe: int) -> int:
    (error_pipe,) = _above([error_pipe], targets)
    moved = _above(fds, targets)
    for fd in (0, 1, 2):
        if fd not in targets:
            os.close(fd)
    for fd, target in zip(moved, targets, strict=True):
        os.dup2(fd, target, inheritable=True)
    return error_pipe


def _identify(spec: dict[str, Any]) -> None:
    os.umask(spec["umask"])
    if spec["limits"] is None:
        _put_limit_back()
    else:
        import resource

        for number, limits in spec["limits"]:
            resource.setrlimit(number, limits)
    if spec["new_session"] or spec["process_group"] is None:
        os.setsid()
    if spec["process_group"] is not None:
        os.setpgid(0, spec["process_group"])
    if spec["groups"] is not None:
        os.setgroups(spec["groups"])
    if spec["gid"] is not None:
        os.setregid(spec["gid"], spec["gid"])
    if spec["uid"] is not None:
        os.setreuid(spec["uid"], spec["uid"])


def _read_failure(error_pipe: int) -> Failure | None:
    """What :func:`_become` has written, once it is over; None if the program runs."""
    data = b""
    while piece := os.read(error_pipe, 4096):
        data += piece
    if not data:
        return None
    stage, number, text = data.decode(errors="replace").split(" ", 2)
    return stage, int(number), text


def _above(fds: list[int], targets: list[int]) -> list[int]:
    """Duplicates above every target, so that placing one cannot close another that still waits."""
    above = max([*targets, 2]) + 1
    return [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in fds]


def _exec_first(paths: list[bytes], argv: list[bytes], env: dict[bytes, bytes]) -> None:
    failures = []
    for path in paths:
        try:
            os.execve(path, argv, env)
        except OSError as error:
            failures.append(error)
    raise _telling(failures)


def _telling(failures: list[OSError]) -> OSError:
    """Which of them is reported, as execvpe(3) does it: a missing file only if nothing else went wrong."""
    for failure in failures:
        if failure.errno not in (errno.ENOENT, errno.ENOTDIR):
            return failure
    return failures[-1] if failures else FileNotFoundError(errno.ENOENT, "no path to execute")
