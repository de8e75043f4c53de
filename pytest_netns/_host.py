"""Hosts and bridges: run callables and programs in them, open sockets in them, read their interfaces."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket as _socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from operator import index
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from . import _requests
from ._block import CALL_LIMIT, Block
from ._child import current_tag
from ._errors import ClosedError, KernelError, NetnsError, PlanError, hide_own_frames
from ._fork import Entry
from ._interfaces import Interface, InterfaceState, Surroundings, read_states
from ._namespace import Namespace
from ._process import Popen

if TYPE_CHECKING:
    from typing_extensions import ParamSpec, Self

    P = ParamSpec("P")

__all__ = ["Block", "Bridge", "Host", "Inside"]

__tracebackhide__ = hide_own_frames

T = TypeVar("T")


class Owner(Protocol):
    """Who makes a host or bridge that is only planned so far, and ends it."""

    def build(self) -> None: ...
    def remove(self, *places: Inside) -> None: ...
    def surroundings(self, place: Inside, interface: str) -> Surroundings | None: ...


class Inside:
    """A namespace with a name, in which things run; what hosts and bridges have in common."""

    def __init__(self, name: str, namespace: Namespace | None = None, owner: Owner | None = None) -> None:
        self.name = name
        self._namespace = namespace
        self._owner = owner
        self._ended = False
        self._mounts: int | None = None
        self._mounts_asked = False

    @property
    def namespace(self) -> Namespace:
        """Its network namespace; made now, with the whole lab, if it has not been."""
        if self._namespace is None:
            if self._ended or self._owner is None:
                raise ClosedError(f"{self!r} is closed")
            self._owner.build()
            assert self._namespace is not None
        return self._namespace

    # Running

    @contextlib.contextmanager
    def enter(self, *, timeout: float | None = CALL_LIMIT) -> Iterator[Block]:
        """Enter for a block: ``with host.enter() as run: run(function, …)``.

        Each ``run`` forks, enters the host and calls; the test process itself never changes its namespace. When the
        block ends, processes that its callables started and left are killed. (Where the kernel has no time namespaces,
        before Linux 5.6 or with CONFIG_TIME_NS=n, nothing tells them from others; they then end with the host.)

        Args:
            timeout: Seconds that each call may take; None for no limit.

        Source: setns(2), fork(2).
        """
        number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
        if timeout is not None and not (number and timeout > 0):
            raise PlanError(f"timeout {timeout!r}: expected seconds above 0, or None for no limit")
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
        """
        return Popen(args, *positional, _entry=self._entry(current_tag()), _broker=self.namespace.broker, **keywords)

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
        if input is not None:
            if keywords.get("stdin") is not None:
                raise ValueError("stdin and input arguments may not both be used.")
            keywords["stdin"] = subprocess.PIPE
        if capture_output:
            if keywords.get("stdout") is not None or keywords.get("stderr") is not None:
                raise ValueError("stdout and stderr arguments may not be used with capture_output.")
            keywords["stdout"] = keywords["stderr"] = subprocess.PIPE
        with self.popen(args, *positional, **keywords) as process:
            try:
                stdout, stderr = process.communicate(input, timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            except BaseException:
                process.kill()
                raise
        code = process.returncode
        if check and code:
            raise subprocess.CalledProcessError(code, process.args, output=stdout, stderr=stderr)
        return subprocess.CompletedProcess(process.args, code, stdout, stderr)

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

    def end_processes(self) -> int:
        """Kill every process inside; return how many there were."""
        return self.namespace.broker.end_processes("net", [self.namespace.id])

    def close(self) -> None:
        """End what runs inside and let the namespace go; may be called twice."""
        if self._owner is not None:
            self._owner.remove(self)
        elif not self.closed:
            try:
                self.end_processes()
            finally:
                self._release()

    def _release(self) -> None:
        self._ended = True
        mounts, self._mounts = self._mounts, None
        if mounts is not None:
            os.close(mounts)
        if self._namespace is not None:
            self._namespace.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _entry(self, tag: int | None = None) -> Entry:
        """What a child of the calling process has yet to enter."""
        held = self.namespace.broker
        net = self.namespace.fileno()
        if not self._mounts_asked:
            fds = held.request("files", fds=[net])[1]
            self._mounts = fds[0] if fds else None
            self._mounts_asked = True
        inside_already = not held.rootless or _same("user", held.user)
        return Entry(
            net=net,
            pid=held.pid,
            user=None if inside_already else held.user,
            mounts=self._mounts,
            tag=tag,
            rootless=held.rootless,
            where=self.name,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}{' closed' if self.closed else ''}>"


def _same(kind: str, fd: int) -> bool:
    # Entering the user namespace one is in already is an error (setns(2)); a call inside a call does that.
    return os.stat(f"/proc/thread-self/ns/{kind}").st_ino == os.fstat(fd).st_ino


class Host(Inside):
    """What stands for a computer in a test: a namespace with a name, interfaces, addresses and processes."""

    def __init__(
        self,
        name: str,
        namespace: Namespace | None = None,
        owner: Owner | None = None,
        network: Mapping[str, Host] | None = None,
    ) -> None:
        super().__init__(name, namespace, owner)
        self._given: tuple[str, ...] = ()
        self._added: tuple[str, ...] = ()
        self._network: Mapping[str, Host] = {name: self} if network is None else network

    @classmethod
    def attach(
        cls,
        name: str | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        pid: int | None = None,
        fd: int | None = None,
    ) -> Host:
        """A host that stands for a namespace that exists already; see :meth:`Namespace.attach` for what is taken.

        Closing the host ends neither the namespace nor what runs in it.
        """
        namespace = Namespace.attach(name, path=path, pid=pid, fd=fd)
        label = name if name is not None and "/" not in name else f"net-{namespace.id}"
        return _AttachedHost(label, namespace)

    @property
    def ip(self) -> str | None:
        """The first IPv4 address that it was given, without prefix length; None if it has none.

        By a plan or :meth:`add_address`: what a program inside changes is not seen here.
        """
        return next((address for address in self._plain() if ":" not in address), None)

    @property
    def ip6(self) -> str | None:
        """The first IPv6 address that it was given; see :attr:`ip`."""
        return next((address for address in self._plain() if ":" in address), None)

    def _plain(self) -> list[str]:
        return [address.split("/")[0] for address in (*self._given, *self._added)]

    def resolve(self, name: str) -> str:
        """The address of a host of the same network by its name, or of ``localhost``.

        Raises:
            NetnsError: Nobody here has that name; the message lists the names there are.
        """
        known = {"localhost": "127.0.0.1"}
        known.update((other.name, other.ip or other.ip6 or "") for other in self._network.values())
        if name not in known:
            raise NetnsError(f"{self.name} knows no host {name!r}; it knows {', '.join(sorted(known))}")
        if not known[name]:
            raise NetnsError(f"{name} has no address; give it one with add_address")
        return known[name]

    def namesake_of(self, target: Host, address: str) -> Host | None:
        """The host of this network that answers to ``address`` instead of ``target``, which is in another network."""
        if self._network.get(target.name) is target:
            return None
        return next((host for host in self._network.values() if address in host._plain()), None)

    def adopt(self, interface: Interface) -> Interface:
        """Move an interface that exists (a TUN device, say) into this host; it arrives down.

        Source: ``ip link set NAME netns HOST``, ip-link(8).
        """
        request = _requests.move_link(interface.index, interface.name, self.namespace.fileno())
        interface._namespace.netlink.batch([request])
        return self[interface.name]

    def add_address(self, interface: str, address: str) -> None:
        """Give an interface one more address, such as ``"10.0.0.9/24"``; on one that is up it can be used at once."""
        try:
            # Without its prefix length it would have no network, and nobody would be reached from it.
            plain, length = address.split("/")
            parsed = ipaddress.ip_interface(f"{plain}/{int(length)}")
        except (ValueError, AttributeError):
            raise PlanError(
                f"address {address!r}: expected one with its prefix length, such as '10.0.0.9/24' or 'fd00:10::9/64'"
            ) from None
        state = self[interface].state()
        request = _requests.add_address(state.index, str(parsed.ip), parsed.network.prefixlen)
        if parsed.version == 6 and state.operstate == "UP":  # else it becomes usable with the interface
            self.namespace.netlink.add_and_wait(request, state.index, parsed.ip.packed)
        else:
            self.namespace.netlink.batch([request])
        self._added += (str(parsed),)


class _AttachedHost(Host):
    """A host whose namespace is somebody else's: nothing in it is ours to end."""

    def close(self) -> None:
        if not self.closed:
            self._release()

    @property
    def ip(self) -> str | None:
        return self._first(_socket.AF_INET)

    @property
    def ip6(self) -> str | None:
        return self._first(_socket.AF_INET6)

    def _first(self, family: int) -> str | None:
        for message in self.namespace.netlink.addresses():
            if message["family"] == family and message["scope"] == 0:
                return str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
        return None


class Bridge(Inside):
    """An L2 segment: a bridge in a namespace of its own."""

    @property
    def state(self) -> InterfaceState:
        """The bridge itself, as it is now; ``state.bridge_id`` and ``state.stp`` as ``brctl show`` has them."""
        return self.interfaces[self.name]

    @property
    def ports(self) -> dict[str, InterfaceState]:
        """Its ports as they are now, by name."""
        own = self.state.index
        return {name: state for name, state in self.interfaces.items() if state.master == own}

    @property
    def learned(self) -> dict[str, str]:
        """MAC addresses that it has learned, and the port each is behind (``bridge fdb``)."""
        names = {state.index: name for name, state in self.interfaces.items()}
        return {
            message.get_attr("NDA_LLADDR"): names[message["ifindex"]]
            for message in self.namespace.netlink.bridge_neighbours()
            if not message["state"] & 0x80  # NUD_PERMANENT: the ports' own
        }
