"""What hosts and bridges have in common: run callables and programs, open sockets, read interfaces and settings."""

from __future__ import annotations

import contextlib
import functools
import os
import socket as _socket
import subprocess
from collections.abc import Callable, Iterator
from operator import index
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ._belongings import Belongings, Names
from ._entry import CALL_LIMIT, Entry
from ._errors import ClosedError, KernelError, PlanError, hide_own_frames
from ._interfaces import Interface, InterfaceState, Surroundings, read_states
from ._namespace import Namespace
from ._plan import Plan
from ._releasing import no_second_error, releasing
from ._tags import current_tag
from ._waiting import Waits

if TYPE_CHECKING:
    from typing_extensions import ParamSpec, Self

    from ._background import Background, BadEnd
    from ._block import Block
    from ._process import Popen
    from ._started import Started

    P = ParamSpec("P")

__all__ = ["Inside"]

__tracebackhide__ = hide_own_frames

T = TypeVar("T")


class Owner(Protocol):
    """Who makes a host or bridge that is only planned so far, and ends it."""

    def build(self) -> None: ...
    def making(self) -> contextlib.AbstractContextManager[object]: ...
    def names(self, place: Inside) -> Names: ...
    def show_names(self) -> None: ...
    def answering(self, place: Inside, address: str) -> str | None: ...
    def hidden(self, place: Inside, target: Inside) -> frozenset[str]: ...
    def plan(self) -> Plan: ...
    def check_own(self, *places: object) -> None: ...
    def alter(self, node: str, change: Callable[[Plan], Plan]) -> None: ...
    def remove(self, *places: Inside) -> None: ...
    def surroundings(self, place: Inside, interface: str) -> Surroundings | None: ...


class Inside(Waits):
    """A namespace with a name, in which things run; what hosts and bridges have in common."""

    def __init__(self, name: str, namespace: Namespace | None = None, owner: Owner | None = None) -> None:
        self.name = name
        self._namespace = namespace
        self._owner = owner
        self._ended = False
        self._belongings: Belongings | None = None

    @property
    def namespace(self) -> Namespace:
        """Its network namespace; made now, with the whole lab, if it has not been."""
        if self._namespace is None:
            if self._ended or self._owner is None:
                raise ClosedError(self.why_closed)
            self._owner.build()
        return self._there()

    def _there(self) -> Namespace:
        if self._namespace is None:
            raise ClosedError(
                f"{self!r} is not there in this process: another thread of its parent was making it when this one was "
                "forked; make it before: lab.build()"
            )
        return self._namespace

    # Running

    @contextlib.contextmanager
    def enter(self, *, timeout: float | None = CALL_LIMIT) -> Iterator[Block]:
        """Enter for a block: ``with host.enter() as run: run(function, …)``.

        Each ``run`` forks, enters the host and calls; the test process itself never changes its namespace. When the
        block ends, processes that its callables started and left are ended, as by :meth:`end_processes`. (Where the
        kernel has no time namespaces, before Linux 5.6 or with CONFIG_TIME_NS=n, nothing tells them from others; they
        then end with the host.)

        Args:
            timeout: Seconds that each call may take; None for no limit.

        Source: setns(2), fork(2).
        """
        number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
        if timeout is not None and not (number and timeout > 0):
            raise PlanError(f"timeout {timeout!r}: expected seconds above 0, or None for no limit")
        from ._block import Block  # not every session calls something

        block = Block(self, timeout)
        try:
            yield block
        finally:
            block.close()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function inside, once: ``with self.enter() as run: return run(function, …)``, limit 60 s."""
        __tracebackhide__ = True
        with self.enter() as run:
            return run(function, *args, **kwargs)

    async def acall(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """:meth:`call` for a running event loop: the loop goes on meanwhile."""
        __tracebackhide__ = True
        with self.enter() as run:
            return await run.acall(function, *args, **kwargs)

    def popen(self, args: Any, *positional: Any, **keywords: Any) -> Popen:
        """Start a program inside; takes and returns what ``subprocess.Popen`` does.

        It runs as the test's own user, with the capabilities a network needs. It ends with the host at the latest.

        Where ``stdout`` or ``stderr`` is not given, what it writes there is kept, is in ``output`` of the result, and
        is shown when the test fails (and at once with ``pytest -s``). When it ends by itself, with an exit status other
        than 0 or by a signal, and nobody has asked for that by ``wait``, ``poll`` or ``communicate``, the test fails.

        Args:
            check: False if it may end with an error.
        """
        __tracebackhide__ = True
        program = self._popen(args, positional, keywords, keep=True)
        self.background.add(program)
        return program

    def _popen(self, args: Any, positional: tuple[Any, ...], keywords: dict[str, Any], *, keep: bool = False) -> Popen:
        __tracebackhide__ = True
        from ._process import Popen  # not every session runs a program

        held = self.namespace.broker
        return Popen(args, *positional, _entry=self._entry(current_tag()), _broker=held, _keep=keep, **keywords)

    def start(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Started[T]:
        """Start a callable inside, in the background: ``server = host.start(serve, 80)``; it ends with the host.

        If it has a parameter ``ready`` and is given nothing for it, it gets a callback, and ``start`` returns when it
        has called that: ``def serve(port, ready): …; ready(); …``. If it has not within 60 s, it is killed. A coroutine
        function is run in an event loop of its own.

        What it prints, logs and warns is kept and shown as that of a program is; see :meth:`popen`. Log records reach
        the test, too (caplog), and so do warnings, whenever it looks: by ``wait``, ``output`` or ``wait_output``.
        What is left goes where pytest has logs and warnings after the test's body. An exception before ``ready()`` is
        raised here. One after it fails the test, unless :meth:`Started.wait` has told of it.
        """
        __tracebackhide__ = True
        from ._started import Started

        started = Started(self._entry(current_tag()), self.namespace.broker, function, args, kwargs)
        self.background.add(started)
        return started

    @functools.cached_property
    def background(self) -> Background:
        """What was started in it by :meth:`popen` and :meth:`start`, and is still known."""
        from ._background import Background

        return Background(self.name, self.namespace.id)

    def run(
        self,
        args: Any,
        *positional: Any,
        input: Any = None,
        capture_output: bool = False,
        timeout: float | None = None,
        check: bool = False,
        **keywords: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a program inside and wait for it; takes, returns and raises what ``subprocess.run`` does."""
        __tracebackhide__ = True
        from ._run import communicate, completed, with_pipes

        with self._popen(args, positional, with_pipes(keywords, input, capture_output)) as process:
            stdout, stderr = communicate(process, input, timeout)
        return completed(process, stdout, stderr, check)

    async def arun(
        self,
        args: Any,
        *positional: Any,
        input: Any = None,
        capture_output: bool = False,
        timeout: float | None = None,
        check: bool = False,
        **keywords: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """:meth:`run` for a running event loop, asyncio's or trio's: it goes on meanwhile.

        Cancelling it, or its time-out, kills the program.
        """
        __tracebackhide__ = True
        from ._arun import communicate
        from ._run import completed, with_pipes

        with self._popen(args, positional, with_pipes(keywords, input, capture_output)) as process:
            try:
                stdout, stderr = await communicate(process, input, timeout)
            except BaseException:
                process.kill()
                raise
        return completed(process, stdout, stderr, check)

    def socket(
        self,
        family: int = _socket.AF_INET,
        type: int = _socket.SOCK_STREAM,
        proto: int = 0,
    ) -> _socket.socket:
        """Open an ordinary socket that lives inside and is used from here, raw ones and low ports included.

        Names and interface names given to it are still looked up in the test process; give addresses.

        Raises:
            OSError: As ``socket.socket`` would.
        """
        try:
            net = self.namespace.fileno()
            _, (fd,) = self.namespace.broker.request("socket", index(family), index(type), index(proto), fds=[net])
        except KernelError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0)) from None
        return _socket.socket(family, type, proto, fileno=fd)

    # Looking

    @property
    def interfaces(self) -> dict[str, InterfaceState]:
        """The interfaces as they are now, by name."""
        return {state.name: state for state in read_states(self.namespace)}

    def __getitem__(self, name: str) -> Interface:
        """The interface of that name.

        Raises:
            KeyError: There is none; the message lists those there are.
        """
        states = self.interfaces
        if name not in states:
            raise KeyError(f"{self.name} has no interface {name!r}; it has {', '.join(states)}")
        surroundings = None if self._owner is None else self._owner.surroundings(self, name)
        return Interface(self.namespace, name, states[name].index, surroundings)

    def interface_index(self, name: str) -> int:
        """The number of an interface, as a scope id wants it."""
        return self[name].index

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Read, or write and read, a network setting of this namespace: ``host.sysctl("ipv4.ip_forward", 1)``.

        Args:
            name: Below ``net.``, as sysctl(8) has it, or as a path below ``/proc/sys/net``.

        Raises:
            FileNotFoundError: There is no such setting in a namespace.
            OSError: The kernel refuses the value.
        """
        if not isinstance(name, str):
            raise PlanError(f"sysctl {name!r}: expected a name below net., such as 'ipv4.ip_forward'")
        path = name.removeprefix("net.").removeprefix("/proc/sys/net/")
        if "/" not in path:
            path = path.replace(".", "/")
        if not path or "\0" in path or ".." in path.split("/") or path.startswith("/"):
            raise PlanError(f"sysctl {name!r}: expected a name below net., such as 'ipv4.ip_forward'")
        data = None if value is None else str(value).encode()
        try:
            answer, _ = self.namespace.broker.request("sysctl", path, data, fds=[self.namespace.fileno()])
        except KernelError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), f"/proc/sys/net/{path}") from None
        return bytes(answer).decode().strip()

    # Ends

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self._ended or (self._namespace is not None and self._namespace.closed)

    @property
    def why_closed(self) -> str:
        """What to tell those who use it all the same."""
        return f"{self.name} is closed: it was removed, or its lab has ended"

    def end_processes(self) -> int:
        """End every process inside: SIGTERM, and SIGKILL after 2 s for what is left; return how many there were.

        Whoever ignores SIGTERM is killed at once. It takes no longer than they do.
        """
        if "background" in self.__dict__:
            self.background.expect_end()
        return self.namespace.broker.end_processes("net", [self.namespace.id])

    def close(self) -> None:
        """End what runs inside and let the namespace go; may be called twice."""
        if self._owner is not None:
            self._owner.remove(self)
        elif not self.closed:
            bad_ends = self._bad_ends()
            with releasing(self.name) as release:
                release(self.end_processes)
                release(self._release)
                if bad_ends:
                    from ._background import ended_badly

                    raise ended_badly(bad_ends)

    def _bad_ends(self) -> list[BadEnd]:
        """Who has ended with an error that nobody knows of; who ends from now on is ended by us."""
        if "background" not in self.__dict__:
            return []
        bad_ends = self.background.bad_ends()
        self.background.expect_end()
        return bad_ends

    def _release(self) -> None:
        self._ended = True
        belongings, self._belongings = self._belongings, None
        with releasing(self.name) as release:
            if "background" in self.__dict__:
                release(self.background.release)
            if belongings is not None:
                release(belongings.close)
            if self._namespace is not None:
                self._namespace.why_closed = self.why_closed
                release(self._namespace.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with no_second_error(kind):
            self.close()

    def _entry(self, tag: int | None = None) -> Entry:
        """What a child of the calling process has yet to enter."""
        # A child may use these. If another thread was at their import when it was forked, it would wait for ever.
        from . import _listening, _run, _started  # noqa: F401

        held = self.namespace.broker
        net = self.namespace.fileno()
        own = self._belongings or self._equip()
        inside_already = not held.rootless or _same("user", held.user)
        return Entry(
            net=net,
            pid=held.pid,
            user=None if inside_already else held.user,
            mounts=own.mounts,
            uts=own.uts,
            tag=tag,
            confined=held.confines,
            where=self.name,
        )

    def _equip(self) -> Belongings:
        """What it has of its own besides the network, made when something first runs in it."""
        owner = self._owner
        if owner is None:  # somebody else's, whose names are not known here
            self._belongings = Belongings(self.namespace, self.name, None)
            return self._belongings
        with owner.making():  # so that nobody is added meanwhile whose name it would not learn
            if self._belongings is None:
                self._belongings = Belongings(self.namespace, self.name, owner.names(self))
            return self._belongings

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}{' closed' if self.closed else ''}>"


def _same(kind: str, fd: int) -> bool:
    # Entering the user namespace one is in already is an error (setns(2)); a call inside a call does that.
    return os.stat(f"/proc/thread-self/ns/{kind}").st_ino == os.fstat(fd).st_ino
