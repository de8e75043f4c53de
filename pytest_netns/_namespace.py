"""Owner of one network namespace: a descriptor, and a name under /run/netns where that was asked for."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._broker import broker
from ._errors import ClosedError, KernelError, NetnsError, PlanError
from ._netlink import Netlink
from ._plan import check_host_name

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Namespace"]

#: Where ip-netns(8) keeps names.
_NAMES = Path("/run/netns")


class Namespace:
    """One Linux network namespace, held by a descriptor.

    It lives as long as something holds it: this object, a process or a socket inside, a name. Nothing is written
    anywhere unless ``name`` is given: then ``ip netns`` sees it too, until :meth:`close`.

    Args:
        name: A name for ip-netns(8); needs root.

    Raises:
        NamespacesUnavailable: The machine does not allow namespaces; the message says what to type.
        PlanError: The name is malformed.
        FileExistsError: The name is taken; the namespace behind it is left alone.

    Source: network_namespaces(7), ip-netns(8).
    """

    def __init__(self, name: str | None = None) -> None:
        if name is not None:
            check_host_name(name, "namespace name")
        _, (netlink, fd) = broker().request("namespaces", 1)
        self._own(fd, netlink, name)
        if name is not None:
            try:
                self._bind(name)
            except BaseException:
                self.close()
                raise

    @classmethod
    def many(cls, count: int) -> list[Namespace]:
        """Make several in one request."""
        fds: list[int] = []
        for start in range(0, count, 64):
            fds += broker().request("namespaces", min(64, count - start))[1]
        return [cls._of(fds[2 * number + 1], fds[2 * number]) for number in range(count)]

    @classmethod
    def attach(
        cls, name: str | None = None, *, path: str | os.PathLike[str] | None = None, pid: int | None = None, fd: int | None = None
    ) -> Self:
        """Hold a namespace that exists: by ip-netns(8) name, by path, of a process, or by descriptor (duplicated).

        Closing lets go of it and removes nothing. As with ip(8), a name with a ``/`` in it is a path.

        Raises:
            FileNotFoundError: There is no such name or path; the message lists the names there are.
            ProcessLookupError: There is no such process.
            NetnsError: It exists, but is not a network namespace, or the kernel does not let us in.
        """
        given = {key: value for key, value in {"name": name, "path": path, "pid": pid, "fd": fd}.items() if value is not None}
        if len(given) != 1:
            raise PlanError(f"attach takes exactly one of name, path, pid and fd, not {given or 'none'}")
        own, what = _open(name, path, pid, fd)
        try:
            netlink = broker().request("netlink", fds=[own])[1][0]
        except KernelError as error:
            os.close(own)
            why = "it is not one" if error.errno == errno.EINVAL else error.strerror
            raise NetnsError(f"{what} cannot be entered as a network namespace: {why}") from None
        except BaseException:
            os.close(own)
            raise
        return cls._of(own, netlink)

    @classmethod
    def _of(cls, fd: int, netlink: int) -> Self:
        made = cls.__new__(cls)
        made._own(fd, netlink, None)
        return made

    def _own(self, fd: int, netlink: int, name: str | None) -> None:
        self._fd = fd
        self._name = name
        self._bound = False
        self._netlink = Netlink(netlink)
        #: Inode of the namespace's nsfs file: its identity, the number in ``/proc/PID/ns/net``.
        self.id: int = os.fstat(fd).st_ino

    @property
    def name(self) -> str | None:
        """The name that ip-netns(8) knows it by, if one was asked for."""
        return self._name

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._fd < 0

    @property
    def netlink(self) -> Netlink:
        """The rtnetlink socket inside."""
        self.fileno()
        return self._netlink

    def fileno(self) -> int:
        """The descriptor; it stays ours.

        Raises:
            ClosedError: It has been closed.
        """
        if self._fd < 0:
            raise ClosedError(f"{self!r} is closed")
        return self._fd

    def close(self) -> None:
        """Let go of it, and take its name away; may be called twice."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        self._netlink.close()
        os.close(fd)
        if self._bound:
            self._unbind()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._fd < 0 else ""
        return f"<Namespace {self._name + ' ' if self._name else ''}net:[{self.id}]{state}>"

    def _bind(self, name: str) -> None:
        from . import _kernel

        held = broker()
        if held.rootless or os.geteuid() != 0:
            raise NetnsError(
                f"a name for the namespace {name!r} in {_NAMES} needs root, and this process is not. "
                "Leave the name out, or run as root: sudo env PATH=$PATH pytest …"
            )
        if not _NAMES.exists():
            held.note_name(f"{_NAMES}/", taken=True)
            _NAMES.mkdir(mode=0o755, exist_ok=True)
        path = _NAMES / name
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
        except FileExistsError:
            raise FileExistsError(
                17, f"a namespace named {name!r} exists already; to remove it: ip netns del {name}", str(path)
            ) from None
        held.note_name(str(path), taken=True)
        self._bound = True
        try:
            _kernel.bind_name(self.fileno(), str(path))
        except BaseException:
            path.unlink()
            held.note_name(str(path), taken=False)
            self._bound = False
            raise

    def _unbind(self) -> None:
        from . import _kernel

        path = _NAMES / str(self._name)
        self._bound = False
        # Somebody may have said ``ip netns del`` meanwhile, and that is all right.
        with contextlib.suppress(KernelError):
            _kernel.unbind_name(str(path))
        path.unlink(missing_ok=True)
        broker().note_name(str(path), taken=False)


def _open(name: str | None, path: Any, pid: int | None, fd: int | None) -> tuple[int, str]:
    if fd is not None:
        if not isinstance(fd, int) or isinstance(fd, bool) or fd < 0:
            raise PlanError(f"fd {fd!r}: expected a descriptor")
        return os.dup(fd), f"descriptor {fd}"
    if pid is not None:
        if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
            raise PlanError(f"pid {pid!r}: expected the number of a process")
        what, where = f"process {pid}", f"/proc/{pid}/ns/net"
    elif name is not None and "/" not in name:
        what, where = f"the name {name!r}", str(_NAMES / name)
    else:
        where = os.fspath(name if name is not None else path)
        what = f"{where!r}"
    return _open_file(where, what, pid), what


def _open_file(where: str, what: str, pid: int | None) -> int:
    try:
        return os.open(where, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would block
    except FileNotFoundError:
        if pid is not None:
            raise ProcessLookupError(3, f"there is no process {pid}") from None
        names = sorted(os.listdir(_NAMES)) if _NAMES.is_dir() else []
        known = f"there are {', '.join(names)}" if names else "there are no named namespaces"
        raise FileNotFoundError(2, f"no network namespace at {what}; {known}", where) from None
