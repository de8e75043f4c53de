"""The one process inside: PID 1 of a PID namespace, owner of the user namespace when there is no root.

It hands out namespaces and sockets as descriptors and starts commands. It watches the test process (and, under
xdist, the controller) by pidfd: when one is gone, however it went, it exits, and the kernel ends everything inside.

Two halves. The outer one makes the namespaces and waits for the inner one; then it takes away the names under
/run/netns that were asked for, which nobody else would do after a ``kill -9``. The inner half serves requests. It is
single-threaded and uses the standard library only, because its start is part of the first test's time.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

from . import _channel, _exec, _kernel
from ._errors import KernelError

__all__ = ["main"]

# A new namespace copies its IPv4 settings from the machine's, so a laptop, a Docker host and CI differ: what a test
# relies on is set. IPv6 duplicate address detection would keep an address unusable for a second; it cannot find
# anything here. (Documentation/networking/ip-sysctl.rst)
_SETTINGS = {
    "ipv4/conf/all/forwarding": "0",
    "ipv4/conf/default/forwarding": "0",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/all/arp_ignore": "0",
    "ipv4/conf/default/arp_ignore": "0",
    "ipv4/conf/all/arp_announce": "0",
    "ipv4/conf/default/arp_announce": "0",
    "ipv4/conf/all/arp_filter": "0",
    "ipv4/conf/default/arp_filter": "0",
    "ipv6/conf/all/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
}
_GROUP_IPV6_ADDRESSES = 9  # RTNLGRP_IPV6_IFADDR, linux/rtnetlink.h
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1

Answer = tuple[Any, list[int]]


def main(lobby: int, first: int, names: int, watched: list[int]) -> None:
    """Run the helper; the arguments are inherited descriptors."""
    channel = socket.socket(fileno=first)
    try:
        rootless = _leave_the_machine()
        _kernel.unshare(_kernel.CLONE_NEWPID, "CLONE_NEWPID")
        inner = os.fork()
    except OSError as error:
        _channel.send(channel, ("error", error.errno, error.strerror))
        return
    if inner == 0:
        try:
            os.close(names)
            _Inner(rootless, socket.socket(fileno=lobby), channel, watched).serve()
        finally:
            sys.stderr.flush()
            os._exit(0)
    os.close(lobby)
    channel.close()
    for fd in watched:
        os.close(fd)
    _wait_and_take_names_away(inner, names)


def _leave_the_machine() -> bool:
    """Enter a private network namespace, by way of a user namespace where that is needed; say if it was."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        _kernel.unshare(_kernel.CLONE_NEWNET, "CLONE_NEWNET")
    except PermissionError:
        pass
    except KernelError as error:
        if error.errno != 1:
            raise
    else:
        return False
    _kernel.unshare(_kernel.CLONE_NEWUSER, "CLONE_NEWUSER")
    _kernel.map_own_identity(uid, gid)
    _kernel.unshare(_kernel.CLONE_NEWNET, "CLONE_NEWNET")
    return True


def _wait_and_take_names_away(inner: int, names: int) -> None:
    pending: set[bytes] = set()
    text = b""
    ended = os.pidfd_open(inner)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(names, select.POLLIN)
    gone = False
    while not gone:
        ready = dict(poll.poll())
        gone = ended in ready
        if names in ready:
            piece = os.read(names, 65536)
            if not piece:
                poll.unregister(names)
            text += piece
    for line in text.splitlines():
        (pending.add if line[:1] == b"+" else pending.discard)(line[1:])
    os.waitpid(inner, 0)
    for path in sorted(pending, key=len, reverse=True):
        with contextlib.suppress(OSError):
            if path.endswith(b"/"):  # a directory that we made for the names
                os.rmdir(path)
            else:
                _kernel.unbind_name(os.fsdecode(path))
                os.unlink(path)


class _Inner:
    """PID 1: serves requests until the test process is gone."""

    def __init__(
        self, rootless: bool, lobby: socket.socket, first: socket.socket, watched: list[int]
    ) -> None:
        self.rootless = rootless
        self.lobby = lobby
        self.watched = watched
        self.channels: dict[int, socket.socket] = {first.fileno(): first}
        self.running: dict[int, int] = {}  # pid of a command -> the socket that waits for its status
        self.base = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.time = self._open_time_namespace()
        self.own_proc = self._mount_own_proc()
        self.mounts = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self.settings = self._settings_to_write()
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)

    @staticmethod
    def _open_time_namespace() -> int | None:
        try:
            # One of our own: without root there would be no way back to the machine's after marking a block.
            _kernel.unshare(_kernel.CLONE_NEWTIME, "CLONE_NEWTIME")
            return os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # Linux before 5.6, or CONFIG_TIME_NS=n
            return None

    @staticmethod
    def _mount_own_proc() -> bool:
        """Give the inside a /proc that shows its own processes; False where a container forbids it."""
        try:
            _kernel.unshare(_kernel.CLONE_NEWNS, "CLONE_NEWNS")
            _kernel.mount("none", "/", None, _kernel.MS_REC | _kernel.MS_SLAVE)
            _kernel.mount("proc", "/proc", "proc")
        except OSError:
            return False
        return True

    def _settings_to_write(self) -> list[tuple[str, bytes]]:
        """What differs here from what a host should have; the same in every namespace made after this one."""
        wanted = dict(_SETTINGS)
        # Lets ping(8) and others use ICMP sockets without privilege; a user namespace maps only its own group.
        gid = os.getegid()
        wanted["ipv4/ping_group_range"] = f"{gid}\t{gid}" if self.rootless else "0\t2147483647"
        different = []
        for name, value in wanted.items():
            path = "/proc/sys/net/" + name
            try:
                with open(path, encoding="ascii") as file:
                    if file.read().strip() != value:
                        different.append((path, value.encode()))
            except OSError:
                continue  # no IPv6 in this kernel, or a masked /proc
        return different

    def serve(self) -> None:
        poll = select.poll()
        for fd in (self.lobby.fileno(), self.wake_read, *self.watched, *self.channels):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd in self.channels:
                    if not self._answer(self.channels[fd]):
                        poll.unregister(fd)
                        self.channels.pop(fd).close()
                elif fd == self.wake_read:
                    os.read(fd, 4096)
                    self._reap()
                elif fd == self.lobby.fileno():
                    channel = self._accept()
                    if channel is None:
                        return
                    self.channels[channel.fileno()] = channel
                    poll.register(channel, select.POLLIN)
                else:
                    return  # the test process or its controller has ended

    def _accept(self) -> socket.socket | None:
        message, fds, _, _ = socket.recv_fds(self.lobby, 1, 1, socket.MSG_CMSG_CLOEXEC)
        return socket.socket(fileno=fds[0]) if message and fds else None

    def _answer(self, channel: socket.socket) -> bool:
        """Serve one request; False when the asker is gone."""
        try:
            (verb, *arguments), fds = _channel.receive(channel)
        except (EOFError, OSError):
            return False
        answer: list[int] = []
        try:
            value, answer = getattr(self, "do_" + verb)(fds, *arguments)
            reply: object = ("ok", value)
        except OSError as error:
            reply = ("error", error.errno, error.strerror or str(error))
        finally:
            for fd in fds:
                with contextlib.suppress(OSError):
                    os.close(fd)
        try:
            _channel.send(channel, reply, answer)
        except OSError:
            return False
        finally:
            for fd in answer:
                os.close(fd)
        return True

    # Requests. Each takes the descriptors that came with it and returns a plain value and descriptors to send.

    def do_hello(self, _fds: list[int]) -> Answer:
        fds = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("user", "pid")]
        facts = {
            "rootless": self.rootless,
            "ipv6": os.path.exists("/proc/sys/net/ipv6"),
            "own_proc": self.own_proc,
        }
        return facts, fds

    def do_namespaces(self, _fds: list[int], count: int) -> Answer:
        """New network namespaces, each with a socket that speaks rtnetlink in it."""
        answer: list[int] = []
        try:
            for _ in range(count):
                _kernel.unshare(_kernel.CLONE_NEWNET, "CLONE_NEWNET")
                for path, value in self.settings:
                    with contextlib.suppress(OSError):
                        _write(path, value)
                answer.append(_netlink_socket())
                answer.append(_kernel.namespace_fd_of_socket(answer[-1]))
        except BaseException:
            for fd in answer:
                os.close(fd)
            raise
        finally:
            # Not to keep the last one alive.
            _kernel.setns(self.base, _kernel.CLONE_NEWNET, "network namespace")
        return None, answer

    def do_netlink(self, fds: list[int]) -> Answer:
        with self._inside(fds[0]):
            return None, [_netlink_socket()]

    def do_socket(self, fds: list[int], family: int, kind: int, protocol: int) -> Answer:
        with self._inside(fds[0]):
            return None, [socket.socket(family, kind, protocol).detach()]

    def do_sysctl(self, fds: list[int], name: str, value: bytes | None) -> Answer:
        path = "/proc/sys/net/" + name
        with self._inside(fds[0]):
            if value is not None:
                _write(path, value)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(fd, 65536), []
            finally:
                os.close(fd)

    def do_files(self, fds: list[int]) -> Answer:
        """A mount namespace in which /sys/class/net and /proc/net are the host's; none where that is forbidden."""
        if not self.own_proc:
            return None, []
        with self._inside(fds[0]):
            try:
                _kernel.unshare(_kernel.CLONE_NEWNS, "CLONE_NEWNS")
                _mount_own_sys()
                return None, [os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)]
            except OSError:
                return None, []
            finally:
                _kernel.setns(self.mounts, _kernel.CLONE_NEWNS, "mount namespace")

    def do_tag(self, _fds: list[int]) -> Answer:
        """A time namespace, used as a mark that every process started under it carries and cannot lose."""
        if self.time is None:
            return None, []
        try:
            _kernel.unshare(_kernel.CLONE_NEWTIME, "CLONE_NEWTIME")
            tag = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
            _kernel.setns(self.time, _kernel.CLONE_NEWTIME, "time namespace")
        except OSError:
            return None, []
        return None, [tag]

    def do_start(self, fds: list[int], spec: dict[str, Any]) -> Answer:
        """Start a command; ``fds`` are its network and mount namespace, error pipe, status socket, and its own."""
        net, mounts, error_pipe, status, *own = fds
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                self._enter(net, mounts if spec["files"] else None)
            except OSError as error:
                os.write(error_pipe, f"start {error.errno}".encode())
                os._exit(255)
            _exec.become(spec, own, error_pipe)
        self.running[pid] = os.dup(status)
        return None, [os.pidfd_open(pid)]

    def do_end(self, _fds: list[int], kind: str, inodes: list[int]) -> Answer:
        """Kill every process in these namespaces and return when all are gone; SIGKILL, it cannot be refused."""
        wanted = {f"{kind}:[{inode}]" for inode in inodes}
        ended = 0
        while found := self._processes_in(kind, wanted):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    watch = os.pidfd_open(pid)
                    os.kill(pid, signal.SIGKILL)
                    ended += 1
                    select.select([watch], [], [], 10)
                    os.close(watch)
            self._reap()
        return ended, []

    def _processes_in(self, kind: str, wanted: set[str]) -> list[int]:
        found = []
        own = os.getpid()
        for entry in os.listdir("/proc"):
            if not entry.isdecimal():
                continue
            try:
                if os.readlink(f"/proc/{entry}/ns/{kind}") not in wanted:
                    continue
                pid = int(entry) if self.own_proc else _inner_pid(entry)
            except OSError:
                continue  # it has ended, or is none of ours
            if pid != own and pid != 0:
                found.append(pid)
        return found

    def _enter(self, net: int, mounts: int | None) -> None:
        _kernel.setns(net, _kernel.CLONE_NEWNET, "network namespace")
        if mounts is not None:
            _kernel.setns(mounts, _kernel.CLONE_NEWNS, "mount namespace")
        if self.rootless:
            _kernel.keep_network_capabilities()

    @contextlib.contextmanager
    def _inside(self, net: int) -> Iterator[None]:
        _kernel.setns(net, _kernel.CLONE_NEWNET, "network namespace")
        try:
            yield
        finally:
            _kernel.setns(self.base, _kernel.CLONE_NEWNET, "network namespace")

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            waiter = self.running.pop(pid, None)
            if waiter is not None:
                with contextlib.suppress(OSError):
                    os.write(waiter, status.to_bytes(4, "little"))
                os.close(waiter)


def _netlink_socket() -> int:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
    # The kernel announces here that an IPv6 address has become usable.
    sock.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _GROUP_IPV6_ADDRESSES)
    return sock.detach()


def _mount_own_sys() -> None:
    cgroups = os.open("/sys/fs/cgroup", os.O_PATH | os.O_CLOEXEC)
    try:
        _kernel.mount("sysfs", "/sys", "sysfs")
        # The new /sys hides what was mounted on the old one; programs look for their cgroup there.
        with contextlib.suppress(OSError):
            _kernel.mount(f"/proc/self/fd/{cgroups}", "/sys/fs/cgroup", None, _kernel.MS_BIND | _kernel.MS_REC)
    finally:
        os.close(cgroups)


def _inner_pid(outer: str) -> int:
    with open(f"/proc/{outer}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return 0


def _write(path: str, value: bytes) -> None:
    # Unbuffered: a buffered write would lose the kernel's refusal.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)
