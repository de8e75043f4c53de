"""TUN and TAP: interfaces of a host whose other end is not a cable but the test."""

from __future__ import annotations

import errno
import os
import select
import time
from typing import TYPE_CHECKING

from . import _requests
from ._errors import ClosedError, KernelError, PlanError, WaitTimeout, hide_own_frames
from ._interfaces import Interface, read_states

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._namespace import Namespace

__all__ = ["Tun"]

__tracebackhide__ = hide_own_frames

#: What a packet may be long: the largest MTU, and an Ethernet header with it (linux/if_tun.h, linux/if_vlan.h).
_LONGEST = 65535 + 18


class Tun(Interface):
    """A TUN or TAP interface: what the host sends out of it is read here, what is written here the host receives.

    A TUN carries IP packets, a TAP Ethernet frames. The interface is gone with :meth:`close`, or with its host.
    For an event loop: ``loop.add_reader(tun.fileno(), …)``; the descriptor does not block.

    Source: Documentation/networking/tuntap.rst.
    """

    def __init__(self, namespace: Namespace, name: str, index: int, fd: int) -> None:
        super().__init__(namespace, name, index)
        self._fd = fd

    def read(self, timeout: float = 10.0) -> bytes:
        """The next packet that the host sends out of it.

        Linux sends some by itself: an interface that is up asks for IPv6 routers (RFC 4861).

        Args:
            timeout: Seconds to wait for one.

        Raises:
            WaitTimeout: None came.
            KernelError: The interface has been deleted.
        """
        number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
        if not (number and timeout >= 0):
            raise PlanError(f"timeout {timeout!r}: expected seconds, 0 for what is there already")
        deadline = time.monotonic() + timeout
        poll = select.poll()  # select would refuse a descriptor above 1023
        poll.register(self.fileno(), select.POLLIN)
        while True:
            ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            try:
                return os.read(self.fileno(), _LONGEST)
            except BlockingIOError:
                if not ready:
                    raise WaitTimeout(f"nothing came out of {self.name} within {timeout:g} s") from None
            except OSError as error:
                raise KernelError(error.errno, f"read from {self.name}: {error.strerror}") from None

    def write(self, packet: bytes) -> None:
        """Have the host receive a packet.

        Raises:
            KernelError: It is no packet (EINVAL), or the interface is down (EIO) or has been deleted (EBADFD).
        """
        try:
            os.write(self.fileno(), packet)
        except OSError as error:
            raise KernelError(error.errno, f"write {len(packet)} bytes to {self.name}: {error.strerror}") from None

    def fileno(self) -> int:
        """The descriptor of its packets; it stays ours.

        Raises:
            ClosedError: It has been closed.
        """
        if self._fd < 0:
            raise ClosedError(f"{self!r} is closed")
        return self._fd

    def close(self) -> None:
        """Let it go, and with it the interface, whoever was forked meanwhile and runs; may be called twice."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)  # which ends it, unless a callable that was forked meanwhile has a copy
            if not self._namespace.closed:
                self._delete()

    def _delete(self) -> None:
        netlink = self._namespace.netlink
        try:
            netlink.batch([_requests.get_link(self.index)])
            # One that a host has adopted is not here any more, and another interface may have its number.
            if any((state.index, state.kind) == (self.index, "tun") for state in read_states(self._namespace)):
                netlink.batch([_requests.delete_link(self.index)])
        except KernelError as error:
            if error.errno != errno.ENODEV:
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Tun {self.name} index {self.index}>"
