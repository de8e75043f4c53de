"""The helper's outer half: makes the namespaces, forks the inner half (:mod:`._helper`), waits for its end.

It stays where the machine's /run/netns is. So it gives the names there that were asked for, and when the
inner half is gone, however that went, takes them away; after a ``kill -9`` of the test process nobody else
would.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import select
import sys

from . import _channel, _helper, _kernel
from ._errors import KernelError

__all__ = ["main"]

#: Whoever ends a whole session sends these to all its processes; the helper ends when the test process has.
_MEANT_FOR_TESTS = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT)


def main(lobby: int, first: int, names: int, watched: list[int]) -> None:
    """Run the helper; the arguments are inherited descriptors."""
    for number in _MEANT_FOR_TESTS:
        _signal.signal(number, _signal.SIG_IGN)
    for fd in (lobby, first, names, *watched):
        os.set_inheritable(fd, False)  # what runs inside gets none of them
    channel = _socket.socket(fileno=first)
    try:
        rootless = _leave_the_machine()
        _kernel.unshare(_kernel.CLONE_NEWPID, "CLONE_NEWPID")
        inner = os.fork()
    except OSError as error:
        _channel.send(channel, ("unavailable", error.errno, error.strerror))
        return
    if inner == 0:
        try:
            os.close(names)
            for number in _MEANT_FOR_TESTS:
                _signal.signal(number, _signal.SIG_DFL)  # PID 1 does not hear them then
            # Should someone kill this half only, all inside must not live on without it.
            _kernel.die_with_parent(_signal.SIGKILL)
            _helper.Inner(rootless, _socket.socket(fileno=lobby), channel, watched).serve()
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


def _leave_the_machine() -> bool:
    """Enter a private network namespace, by way of a user namespace where that is needed; say if it was."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        _kernel.unshare(_kernel.CLONE_NEWNET, "CLONE_NEWNET")
    except KernelError as error:
        if error.errno != 1:  # EPERM
            raise
    else:
        return False
    _kernel.unshare(_kernel.CLONE_NEWUSER, "CLONE_NEWUSER")
    _kernel.map_own_identity(uid, gid)
    _kernel.unshare(_kernel.CLONE_NEWNET, "CLONE_NEWNET")
    return True


class _Names:
    """The names under /run/netns that this session has; given by one process, so that none is forgotten."""

    def __init__(self, requests: _socket.socket) -> None:
        self._requests = requests
        self._given: dict[bytes, int] = {}  # path -> inode of the namespace
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
        for path in list(self._given):
            self._take(path)
        for path in self._made_directories:
            try:
                os.rmdir(path)
            except OSError:
                continue  # somebody else uses it by now

    def _serve(self) -> bool:
        """Work off one request, ``+PATH`` or ``-PATH``; False once nobody is left to ask."""
        try:
            message, (reply, *namespace) = _channel.receive_message(self._requests)
        except EOFError:
            return False
        except (OSError, ValueError):
            return True  # without its descriptors; the asker sees its end closed
        number = 0
        try:
            if message[:1] == b"+":
                self._give(message[1:], namespace[0])
            else:
                self._take(message[1:])
        except OSError as error:
            number = error.errno or 0
        finally:
            for fd in namespace:
                os.close(fd)
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
            _kernel.bind_name(namespace, os.fsdecode(path))
        except BaseException:
            os.unlink(path)
            raise
        self._given[path] = os.fstat(namespace).st_ino

    def _take(self, path: bytes) -> None:
        inode = self._given.pop(path, None)
        try:
            if os.stat(path).st_ino != inode:
                return  # somebody has removed it and made another of that name
            _kernel.unbind_name(os.fsdecode(path))
            os.unlink(path)
        except OSError:
            return  # ``ip netns del`` has been quicker
