"""Keeps what programs in the background write; part of the helper.

Such a program writes to a pipe. The helper reads it, and appends what comes, with the time, to a file in memory that
the test process holds too. So nothing is lost when the test process is busy or its child is killed, no thread is
needed, and ``> /dev/stderr``, which opens the descriptor anew, cuts off nothing as it would in a file.
"""

from __future__ import annotations

import errno
import os
import select
import struct
import time

__all__ = ["FRAME", "Keeper", "begin"]

#: Before each piece: the time in seconds since the epoch, and the number of bytes.
FRAME = struct.Struct("=dI")

_PIECE = 1 << 16
#: As much as a pipe may hold (/proc/sys/fs/pipe-max-size): what was written before a look is read by then.
_MOST = 1 << 20
#: How long a terminal may take nothing before output is not shown there. It is kept all the same.
_SHOW_LIMIT_MS = 1000


class Keeper:
    """The end of one program's output."""

    def __init__(self, kept: dict[int, Keeper], poll: select.poll, fds: list[int]) -> None:
        """``fds``: the pipe, the file that takes what comes, an eventfd that tells of it, perhaps where it is shown."""
        self._kept, self._poll = kept, poll
        self._pipe, self._file, self._bell, *self._shown = fds

    def take(self) -> None:
        """Take in one piece; let go of everything once nobody has the other end."""
        try:
            data = os.read(self._pipe, _PIECE)
        except BlockingIOError:
            return
        self._keep(data)  # an empty one says that it is over
        if not data:
            self._poll.unregister(self._pipe)
            del self._kept[self._pipe]
            for fd in (self._pipe, self._file, self._bell, *self._shown):
                os.close(fd)

    def drain(self) -> None:
        """Take in all that was written so far."""
        taken = 0
        while taken < _MOST:
            try:
                data = os.read(self._pipe, _PIECE)
            except BlockingIOError:
                return
            if not data:
                self._keep(data)  # whoever hears of the program's end finds that of its output, too
                return
            taken += len(data)
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        try:
            os.writev(self._file, [FRAME.pack(time.time(), len(data)), data])
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.ENOMEM):
                raise
            # No room; but the program goes on.
        os.eventfd_write(self._bell, 1)
        for fd in list(self._shown):
            if not _show(fd, data):  # it stands still; do not wait for it again
                self._shown.remove(fd)
                os.close(fd)


def begin(kept: dict[int, Keeper], poll: select.poll, output: list[int]) -> int:
    """Keep what comes through a pipe, which is returned; ``output``: see :class:`Keeper`, whose are duplicates."""
    held: list[int] = []
    try:
        for fd in output:
            held.append(_own(fd))
    except OSError:
        for fd in held:
            os.close(fd)
        raise
    kept[held[0]] = Keeper(kept, poll, held)
    poll.register(held[0], select.POLLIN)
    return held[0]


def _own(fd: int) -> int:
    """A duplicate; a terminal is opened anew, so that a write does not wait: poll(2) says ready if it takes a byte."""
    try:
        if os.isatty(fd):
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        pass  # another user's (su)
    return os.dup(fd)


def _show(fd: int, data: bytes) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    view = memoryview(data)
    try:
        # A pipe or terminal that is ready takes a page.
        while view and poll.poll(_SHOW_LIMIT_MS):
            view = view[os.write(fd, view[:4096]) :]
    except OSError:
        return False  # it has been closed: nobody looks; or is full
    return not view
