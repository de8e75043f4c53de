"""Waits for what programs in a host do: that they listen, that a file is there."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from ._entry import WAIT_LIMIT
from ._errors import PlanError, hide_own_frames

if TYPE_CHECKING:
    from ._background import Background
    from ._listening import Tables
    from ._namespace import Namespace

__all__ = ["Waits"]

__tracebackhide__ = hide_own_frames

_PROTOCOLS = ("tcp", "udp")
_FAMILIES = (None, socket.AF_INET, socket.AF_INET6)
#: How many things that are there instead a message lists.
_LISTED = 20


class Waits:
    """What hosts can wait for; see :class:`._inside.Inside`."""

    name: str

    if TYPE_CHECKING:

        @property
        def namespace(self) -> Namespace: ...

        @property
        def background(self) -> Background: ...

    def wait_listening(
        self,
        port: int | str | os.PathLike[str],
        *,
        proto: str = "tcp",
        family: int | None = None,
        timeout: float = WAIT_LIMIT,
    ) -> None:
        """Wait until somebody inside listens: ``host.wait_listening(80)``, ``host.wait_listening("/run/my.sock")``.

        It reads the host's own socket tables, so nobody is connected to, and the machine's ports do not count. The
        kernel announces no listening, so it looks again after 1 ms, and then after pauses that grow to 50 ms.

        Args:
            port: A port; or the path of a Unix socket, as its server has bound it, abstract ones with ``@`` in front.
            proto: ``"tcp"`` or ``"udp"``, for a port. UDP listens when it is bound, and not connected.
            family: ``socket.AF_INET`` or ``AF_INET6``, that of the socket: a server of both on one socket has AF_INET6.
                None for either.
            timeout: Seconds.

        Raises:
            ChildDied: Something in the background of this host has ended with an error, before or meanwhile.
            WaitTimeout: The time is over; the message says what does listen, and what programs have written.

        Source: proc_net(5).
        """
        if isinstance(port, int) and not isinstance(port, bool):
            if not 0 < port < 1 << 16:
                raise PlanError(f"port {port!r}: expected 1 to 65535")
            if proto not in _PROTOCOLS or family not in _FAMILIES:
                raise PlanError(
                    f"proto {proto!r}, family {family!r}: expected 'tcp' or 'udp', and AF_INET, AF_INET6 or None"
                )
            what = f"{proto} port {port}" + (f" of {socket.AddressFamily(family).name}" if family is not None else "")
            path = ""
            names = [proto] * (family != socket.AF_INET6) + [f"{proto}6"] * (family != socket.AF_INET)
        elif isinstance(port, (str, os.PathLike)) and os.fspath(port):
            path = what = os.fspath(port)
            path, names = path if path.startswith("@") else os.path.abspath(path), ["unix"]
        else:
            raise PlanError(f"port {port!r}: expected a number, or the path of a Unix socket")
        from ._background import Wait

        wait = Wait(self.background, f"somebody in {self.name} was to listen on {what}", timeout)
        with contextlib.closing(self._socket_tables()) as tables:
            wait.seen = lambda: f"it has {_listed(list(map(str, tables.listeners())), 'nobody who listens')}"
            for _ in wait:
                if any(each.is_at(path) if path else each.port == port for each in tables.listeners(names)):
                    return

    def _socket_tables(self) -> Tables:
        from ._listening import TABLES, Tables

        return Tables(self.namespace.broker.request("tables", list(TABLES), fds=[self.namespace.fileno()])[1])

    def wait_path(self, path: str | os.PathLike[str], *, timeout: float = WAIT_LIMIT) -> None:
        """Wait until there is a file (a pid file, say, or a folder) of that path; files are those of the machine.

        Args:
            path: Relative to the test's working directory.
            timeout: Seconds.

        Raises:
            ChildDied, WaitTimeout: As with :meth:`wait_listening`.
        """
        wanted = os.path.abspath(path)
        folder = os.path.dirname(wanted)
        from ._background import Wait

        wait = Wait(self.background, f"{wanted} was to be there", timeout)

        def there() -> str:
            try:
                return f"{folder} has {_listed(sorted(os.listdir(folder)), 'nothing')}"
            except OSError as error:
                return f"{folder}: {error.strerror}"

        wait.seen = there
        for _ in wait:
            if os.path.exists(wanted):
                return


def _listed(words: list[str], none: str) -> str:
    if len(words) > _LISTED:
        words = [*words[:_LISTED], f"and {len(words) - _LISTED} more"]
    return ", ".join(words) or none
