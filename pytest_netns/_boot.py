"""The helper's outer half: makes the namespaces, forks the inner half (:mod:`._helper`), waits for its end.

It stays where the machine's /run/netns is. So it gives the names there that were asked for, and when the
inner half is gone, however that went, takes them away; after a ``kill -9`` of the test process nobody else
would.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import errno
import os
import select
import sys

from . import _channel, _fresh, _helper, _kernel
from ._errors import KernelError

__all__ = ["main"]

_OUT_OF = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
#: Of a file: device and inode.
Identity = tuple[int, int]

#: Whoever ends a whole session sends these to all its processes; the helper ends when the test process has.
_MEANT_FOR_TESTS = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT)


def main(lobby: int, first: int, names: int, watched: list[int], as_root: bool) -> None:
    """Run the helper; the arguments are inherited descriptors, and whether who runs inside is to be uid 0."""
    for number in _MEANT_FOR_TESTS:
        _signal.signal(number, _signal.SIG_IGN)
    for fd in (lobby, first, names, *watched):
        os.set_inheritable(fd, False)  # what runs inside gets none of them
    channel = _socket.socket(fileno=first)
    limit = _limit_of_namespaces()
    try:
        rootless = _leave_the_machine(as_root)
        _kernel.unshare(_kernel.CLONE_NEWPID, "CLONE_NEWPID")
        inner = _fork()
    except OSError as error:
        # What the machine lacks or forbids it will still lack the next time; out of something it may be just now.
        outcome = "error" if error.errno in _OUT_OF else "unavailable"
        _channel.send(channel, (outcome, error.errno, error.strerror))
        return
    if inner == 0:
        try:
            os.close(names)
            for number in _MEANT_FOR_TESTS:
                _signal.signal(number, _signal.SIG_DFL)  # PID 1 does not hear them then
            # Should someone kill this half only, all inside must not live on without it.
            _kernel.die_with_parent(_signal.SIGKILL)
            _helper.Inner(rootless, as_root, _socket.socket(fileno=lobby), channel, watched, limit=limit).serve()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(0)
    os.close(lobby)
    channel.close()
    for fd in watched:
        os.close(fd)
    _Names(_socket.socket(fileno=names)).keep_until_end_of(inner)
    os._exit(0)  # the session waits, and the interpreter's own end takes longer than all the rest


def _fork() -> int:
    try:
        return os.fork()
    except OSError as error:
        raise KernelError(error.errno, f"fork: {error.strerror}") from None


def _limit_of_namespaces() -> int:
    """How many network namespaces this user may have; inside of a user namespace one sees that one's limit."""
    try:
        return int(_fresh.read("/proc/sys/user/max_net_namespaces"))
    except (OSError, ValueError):  # not there, or masked by a container
        return 0


def _leave_the_machine(as_root: bool) -> bool:
    """Enter a private network namespace, by way of a user namespace where that is needed; say if it was."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 or not as_root:
        try:
            _kernel.unshare(_kernel.CLONE_NEWNET, "CLONE_NEWNET")
        except KernelError as error:
            if error.errno != 1:  # EPERM
                raise
        else:
            return False
    _kernel.unshare(_kernel.CLONE_NEWUSER, "CLONE_NEWUSER")
    _kernel.map_identity(uid, gid, as_root=as_root)
    _kernel.unshare(_kernel.CLONE_NEWNET, "CLONE_NEWNET")
    return True


class _Names:
    """The names under /run/netns that this session has; given by one process, so that none is forgotten."""

    def __init__(self, requests: _socket.socket) -> None:
        self._requests = requests
        #: Path and identity of the namespace -> the directory as it was then.
        self._given: dict[tuple[bytes, Identity], int] = {}
        self._made_directories: list[bytes] = []

    def keep_until_end_of(self, inner: int) -> None:
        ended = os.pidfd_open(inner)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(self._requests, select.POLLIN)
        gone = False
        while not gone:
            for fd, _ in poll.poll():
                if fd == ended:
                    gone = True
                elif not self._serve():
                    poll.unregister(self._requests)
        os.waitpid(inner, 0)
        for path, identity in list(self._given):
            try:
                self._take(path, identity)
            except OSError:
                continue  # somebody else has been at it; the others are still to go
        for path in self._made_directories:
            try:
                os.rmdir(path)
            except OSError:
                continue  # somebody else uses it by now

    def _serve(self) -> bool:
        """Work off one request, ``+PATH`` or ``-PATH``; False once nobody is left to ask."""
        try:
            message, (reply, namespace) = _channel.receive_message(self._requests)
        except EOFError:
            return False
        except (OSError, ValueError):
            return True  # without its descriptors; the asker sees its end closed
        number = 0
        try:
            if message[:1] == b"+":
                self._give(message[1:], namespace)
            else:
                self._take(message[1:], _identity(os.fstat(namespace)))
        except OSError as error:
            number = error.errno or 0
        finally:
            os.close(namespace)
        try:
            os.write(reply, number.to_bytes(4, sys.byteorder))
        except OSError:
            pass  # it has not waited
        finally:
            os.close(reply)
        return True

    def _give(self, path: bytes, namespace: int) -> None:
        directory = os.path.dirname(path)
        try:
            os.mkdir(directory, 0o755)
            self._made_directories.append(directory)
        except FileExistsError:
            pass
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
        try:
            as_it_is = os.open(directory, os.O_PATH | os.O_CLOEXEC)
            try:
                _kernel.bind_name(namespace, os.fsdecode(path))
            except BaseException:
                os.close(as_it_is)
                raise
        except BaseException:
            os.unlink(path)
            raise
        self._given[path, _identity(os.fstat(namespace))] = as_it_is

    def _take(self, path: bytes, identity: Identity) -> None:
        """Take a name away, unless it has passed to another namespace."""
        directory = self._given.pop((path, identity), None)
        found = _unmount(path, identity)
        if directory is not None:
            # The first ``ip netns add`` of a machine mounts the directory over itself, names included; ours is then
            # there twice, and the file stays busy until it is gone from both.
            try:
                found |= _unmount(b"/proc/self/fd/%d/%s" % (directory, os.path.basename(path)), identity)
            finally:
                os.close(directory)
        if found and os.stat(path).st_dev != identity[0]:
            os.unlink(path)


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino


def _unmount(path: bytes, identity: Identity) -> bool:
    """Unmount the namespace wherever this name shows it; say if it did."""
    found = False
    try:
        while _identity(os.stat(path)) == identity:
            _kernel.unbind_name(os.fsdecode(path))
            found = True
    except FileNotFoundError:
        pass  # ``ip netns del`` has been quicker
    return found
