"""Owner of one network namespace: a descriptor, and a name under /run/netns where that was asked for."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._broker import broker
from ._checks import check_host_name
from ._errors import ClosedError, KernelError, NetnsError, PlanError, hide_own_frames
from ._netlink import Netlink
from ._releasing import releasing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from ._broker import Broker

__all__ = ["Namespace"]

__tracebackhide__ = hide_own_frames

#: Where ip-netns(8) keeps names.
_NAMES = Path("/run/netns")
#: With two descriptors each, so that one message takes them.
_AT_A_TIME = 64


#: How many forks lie between this process and the first; pids may repeat across PID namespaces.
_forks = 0


def _after_fork_in_child() -> None:
    global _forks  # noqa: PLW0603 - a fact about the process
    _forks += 1


os.register_at_fork(after_in_child=_after_fork_in_child)


class Namespace:
    """One Linux network namespace, held by a descriptor.

    It lives as long as something holds it: this object, a process or a socket inside, a name. Nothing is
    written anywhere unless ``name`` is given: then ``ip netns`` sees it too, until :meth:`close`.

    Args:
        name: A name for ip-netns(8); needs root.

    Raises:
        NamespacesUnavailable: The machine does not allow namespaces; the message says what to type.
        PlanError: The name is malformed.
        FileExistsError: The name is taken; the namespace behind it is left alone.

    Source: network_namespaces(7), ip-netns(8).
    """

    def __init__(self, name: str | None = None, *, _for_bridge: bool = False, _as_root: bool = False) -> None:
        if name is not None:
            check_host_name(name, "namespace name")
        held = broker(as_root=_as_root)
        _, (netlink, fd) = held.request("namespaces", int(not _for_bridge), int(_for_bridge), [None] * _for_bridge)
        self._own(held, fd, netlink, name)
        if name is not None:
            try:
                self._bind(name)
            except BaseException:
                self.close()
                raise

    @classmethod
    def many(
        cls,
        hosts: int,
        bridges: int = 0,
        like: Sequence[bytes | None] = (),
        *,
        as_root: bool = False,
        tell: Callable[[int], object] | None = None,
    ) -> list[Namespace]:
        """Make several in few requests: some for hosts, then some for bridges.

        Args:
            like: Of each bridge the request that will make it, if it may be one that an earlier lab has made by the
                same request and is done with; then it is there already, switched off. ``packets_before`` tells.
            tell: Is told how many are new, after each request.
        """
        like = like or [None] * bridges
        held = broker(as_root=as_root)
        made: list[Namespace] = []
        try:
            while len(made) < hosts + bridges:
                of_hosts = min(_AT_A_TIME, max(0, hosts - len(made)))
                of_bridges = min(_AT_A_TIME - of_hosts, hosts + bridges - len(made) - of_hosts)
                done = max(0, len(made) - hosts)
                these = list(like[done : done + of_bridges])
                there, fds = held.request("namespaces", of_hosts, of_bridges, these)
                for number, (netlink, fd) in enumerate(zip(fds[::2], fds[1::2], strict=True)):
                    made.append(cls._of(held, fd, netlink))
                    made[-1].packets_before = there.get(number)
                    if number >= of_hosts:
                        made[-1].like = these[number - of_hosts]
                if tell is not None:
                    tell(of_hosts + of_bridges)
        except BaseException:
            for namespace in made:
                namespace.close()
            raise
        return made

    @classmethod
    def attach(
        cls,
        name: str | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        pid: int | None = None,
        fd: int | None = None,
    ) -> Self:
        """Hold a namespace that exists: by ip-netns(8) name, path, process, or descriptor (duplicated).

        Closing lets go of it and removes nothing. As with ip(8), a name with a ``/`` in it is a path.

        Raises:
            FileNotFoundError: There is no such name or path; the message lists the names there are.
            ProcessLookupError: There is no such process.
            PlanError: What is given cannot be a name, path, process or descriptor.
            NetnsError: It exists, but is not a network namespace, or the kernel does not let us in.
        """
        given = {"name": name, "path": path, "pid": pid, "fd": fd}
        given = {word: value for word, value in given.items() if value is not None}
        if len(given) != 1:
            raise PlanError(f"attach takes exactly one of name, path, pid and fd, not {given or 'none'}")
        held = broker()
        own, what = _open(name, path, pid, fd)
        try:
            netlink = held.request("netlink", fds=[own])[1][0]
        except KernelError as error:
            os.close(own)
            why = "it is not one" if error.errno == errno.EINVAL else str(error.strerror)
            if error.errno == errno.EPERM and held.rootless:
                why += "; without root only namespaces made here can be"
            raise NetnsError(f"{what} cannot be entered as a network namespace: {why}") from None
        except BaseException:
            os.close(own)
            raise
        return cls._of(held, own, netlink)

    @classmethod
    def _of(cls, held: Broker, fd: int, netlink: int) -> Self:
        made = cls.__new__(cls)
        made._own(held, fd, netlink, None)
        return made

    def _own(self, held: Broker, fd: int, netlink: int, name: str | None) -> None:
        #: The helper that made it; when that is gone, so is all that was inside.
        self.broker = held
        self._fd = fd
        self._name = name
        self._bound: Broker | None = None
        self._netlink = Netlink(netlink)
        self._forks = _forks
        #: Of a bridge that no lab but this has had to do with: the request that makes one like it. None if it is not to
        #: be kept for another; and in whose process it may be.
        self.like: bytes | None = None
        self._made_by = _forks
        #: Of a bridge that was there already: packets in and out.
        self.packets_before: tuple[int, int] | None = None
        #: Packets in and out that are not counted any more, by index and name of an interface.
        self.counted: dict[tuple[int, str], tuple[int, int]] = {}
        #: What to tell those who use it afterwards, in the words of the host or bridge that it was.
        self.why_closed: str | None = None
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
        """The rtnetlink socket inside; in a forked child one of its own, for answers must not be shared."""
        fd = self.fileno()
        if self._forks != _forks:
            self._netlink = Netlink(self.broker.request("netlink", fds=[fd])[1][0])
            self._forks = _forks
        return self._netlink

    def fileno(self) -> int:
        """The descriptor; it stays ours.

        Raises:
            ClosedError: It has been closed.
        """
        if self._fd < 0:
            raise ClosedError(self.why_closed or f"{self!r} is closed")
        return self._fd

    def for_others(self) -> list[tuple[bytes, int]]:
        """Its descriptor, if it is that of a bridge that may be kept for another lab, and what it is like."""
        ours = self.like is not None and self._made_by == _forks  # a fork's parent goes on with it
        return [(self.like, self._fd)] if ours and self.like and self._fd >= 0 else []

    def close(self) -> None:
        """Let go of it, and take its name away; may be called twice."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        with releasing("a namespace") as release:
            release(self._netlink.close)
            release(self._unbind, fd)
            release(os.close, fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._fd < 0 else ""
        return f"<Namespace {self._name + ' ' if self._name else ''}net:[{self.id}]{state}>"

    def _bind(self, name: str) -> None:
        held = self.broker
        if held.rootless:
            raise NetnsError(
                f"a name for the namespace {name!r} in {_NAMES} needs root (CAP_SYS_ADMIN), "
                "and this process has none. Leave the name out, or run as root: sudo env PATH=$PATH pytest …"
            )
        path = str(_NAMES / name)
        try:
            held.bind_name(path, self.fileno())
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
            message = f"a namespace named {name!r} exists already; to remove it: ip netns del {name}"
            raise FileExistsError(errno.EEXIST, message, path) from None
        self._bound = held

    def _unbind(self, fd: int) -> None:
        held, self._bound = self._bound, None
        if held is not None:
            with contextlib.suppress(OSError):  # the helper has been shut down, and took the name with it
                held.unbind_name(str(_NAMES / str(self._name)), fd)


def _open(name: Any, path: Any, pid: Any, fd: Any) -> tuple[int, str]:
    """Open what was given; return the descriptor, and the words for it."""
    if fd is not None:
        return _duplicate(fd), f"descriptor {fd}"
    if pid is not None:
        if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
            raise PlanError(f"pid {pid!r}: expected the number of a process")
        what, where = f"process {pid}", f"/proc/{pid}/ns/net"
    elif path is None and not isinstance(name, str):
        raise PlanError(f"name {name!r}: expected a name that ip-netns(8) knows, or a path")
    elif path is None and "/" not in name:
        what, where = f"the name {name!r}", str(_NAMES / name)
    else:
        where = os.fspath(name if path is None else path)
        what = f"{where!r}"
    return _open_file(where, what, pid), what


def _duplicate(fd: Any) -> int:
    if not isinstance(fd, int) or isinstance(fd, bool) or fd < 0:
        raise PlanError(f"fd {fd!r}: expected a descriptor")
    try:
        return os.dup(fd)
    except (OSError, OverflowError):
        raise PlanError(f"fd {fd}: this process has no such descriptor open") from None


def _open_file(where: str, what: str, pid: int | None) -> int:
    try:
        return os.open(where, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would block
    except FileNotFoundError:
        if pid is not None:
            raise ProcessLookupError(errno.ESRCH, f"there is no process {pid}") from None
        names = sorted(os.listdir(_NAMES)) if _NAMES.is_dir() else []
        known = f"there are {', '.join(names)}" if names else "there are no named namespaces"
        raise FileNotFoundError(errno.ENOENT, f"no network namespace at {what}; {known}", where) from None
    except ValueError as error:
        raise PlanError(f"{what}: {error}") from None
    except OSError as error:
        raise NetnsError(f"{what} cannot be opened as a network namespace: {error.strerror}") from None
