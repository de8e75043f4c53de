"""The helper's inner half: PID 1 of a PID namespace, owner of the user namespace when there is no root.

It hands out namespaces and sockets as descriptors and starts commands. It watches the test process (and,
under xdist, the controller) by pidfd: when one is gone, however it went, it exits, and the kernel ends
everything inside.

It is single-threaded and uses the standard library only, and little of that: its start is part of the first
test's time. ``contextlib``, ``signal``, ``socket`` and ``typing`` would double that.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import select

from . import _channel, _ending, _fresh, _kernel, _supply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from . import _keeping, _outfit

    Answer = tuple[Any, list[int]]

__all__ = ["Inner"]

#: Below this number of a descriptor every limit of open files that is met in practice has room.
_FEW = 100
#: For what one request takes.
_SPARE = 64


class Inner:
    """PID 1: serves requests until the test process is gone."""

    def __init__(
        self,
        rootless: bool,
        as_root: bool,
        lobby: _socket.socket,
        first: _socket.socket,
        watched: list[int],
        *,
        limit: int,
    ) -> None:
        self.rootless = rootless
        #: Whether who runs inside has the capabilities that networks need, and no others.
        self.confines = rootless and not as_root
        self.lobby = lobby
        self.watched = watched
        self.channels: dict[int, _socket.socket] = {first.fileno(): first}
        self.running: dict[int, tuple[int, int]] = {}  # pid of a command -> who waits for its status, its output
        self.kept: dict[int, _keeping.Keeper] = {}  # by the pipe that the output comes through
        #: pidfd of one that was sent SIGTERM -> those sent it with it, and the pipe that tells of their ends
        self.leaving: dict[int, tuple[set[int], int]] = {}
        self.poll = select.poll()
        self.base = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.time = self._open_time_namespace()
        self.depth = _ending.depth()
        self.own_mounts = self._leave_mounts()
        self.own_proc = self.own_mounts and self._mount_own_proc()
        self.mounts = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self.outfitter: _outfit.Outfitter | None = None
        self.supply = _supply.Supply(self.base, _fresh.settings_of_hosts(rootless), limit)
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        _signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)

    @staticmethod
    def _open_time_namespace() -> int | None:
        try:
            # One of our own: without root there would be no way back to the machine's after marking a block.
            _kernel.unshare(_kernel.CLONE_NEWTIME, "CLONE_NEWTIME")
            own = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
            # Enter it, too: older kernels refuse vfork to who is in another than its children will be in (copy_process,
            # kernel/fork.c), and programs are started by that.
            _kernel.setns(own, _kernel.CLONE_NEWTIME, "time namespace")
            return own
        except OSError:  # Linux before 5.6, or CONFIG_TIME_NS=n
            return None

    @staticmethod
    def _leave_mounts() -> bool:
        """Make sure that what is mounted from here on does not show outside; False where that is forbidden."""
        try:
            _kernel.unshare(_kernel.CLONE_NEWNS, "CLONE_NEWNS")
            _kernel.mount("none", "/", None, _kernel.MS_REC | _kernel.MS_SLAVE)
        except OSError:
            return False
        return True

    @staticmethod
    def _mount_own_proc() -> bool:
        """Give the inside a /proc that shows its own processes; False where a container forbids it."""
        try:
            _kernel.mount("proc", "/proc", "proc")
        except OSError:
            return False
        return True

    def serve(self) -> None:
        """Work until the test process is gone or says quit; then have those inside end."""
        for fd in (self.lobby.fileno(), self.wake_read, *self.watched, *self.channels):
            self.poll.register(fd, select.POLLIN)
        while self._turn():
            pass
        _ending.see_off(None if self.own_proc else self.depth)
        self._reap()

    def _turn(self) -> bool:
        """Wait for something to do and do it; False once it is over."""
        for fd, _ in self.poll.poll():
            if fd in self.channels:
                if not self._answer(self.channels[fd]):
                    self.poll.unregister(fd)
                    self.channels.pop(fd).close()
            elif fd == self.wake_read:
                os.read(fd, 4096)
                self._reap()
            elif fd in self.leaving:
                self._tell_of_end(fd)
            elif fd in self.kept:
                self.kept[fd].take()
            elif fd != self.lobby.fileno() or not self._hear():
                return False  # the test process or its controller has ended, or says quit
        return True

    def _hear(self) -> bool:
        """Take from the lobby what needs no answer; False if asked to quit, or if nobody is left to ask."""
        try:
            message, fds = _channel.receive_message(self.lobby)
        except EOFError:
            return False
        except OSError:
            return True  # its descriptor was lost; the asker sees its end closed
        for fd in fds:
            if message == b"c":  # a new asker's channel
                self.channels[fd] = _socket.socket(fileno=fd)
                self.poll.register(fd, select.POLLIN)
            else:  # b"k", and what the bridge is like whose lab has ended
                try:
                    self.supply.keep(message[1:], fd)
                except OSError:
                    pass  # out of descriptors; so it ends
                finally:
                    os.close(fd)
        return message != b"q"

    def _answer(self, channel: _socket.socket) -> bool:
        """Serve one request; False when the asker is gone."""
        answer: list[int] = []
        try:
            (verb, *arguments), fds = _channel.receive(channel)
        except _channel.TruncatedError as error:
            reply: object = ("error", error.errno, f"the helper process: {error.strerror}")
        except (EOFError, OSError):
            return False
        else:
            reply, answer = self._perform(verb, arguments, fds)
        try:
            _channel.hand_over(channel, reply, answer)
        except OSError:
            return False
        self.supply.prepare()
        return True

    def _perform(self, verb: str, arguments: list[Any], fds: list[int]) -> Answer:
        try:
            value, answer = getattr(self, "do_" + verb)(fds, *arguments)
            return ("ok", value), answer
        except OSError as error:
            return ("error", error.errno, error.strerror or str(error)), []
        except Exception as error:  # a value that no system call takes must not end everybody's networks
            return ("raised", type(error).__name__, str(error)), []
        finally:
            for fd in fds:
                os.close(fd)

    # Requests. Each takes the descriptors that came with it, returns a plain value and descriptors to send.

    def do_hello(self, _fds: list[int]) -> Answer:
        fds = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("user", "pid")]
        facts = {
            "rootless": self.rootless,
            "confines": self.confines,
            "ipv6": os.path.exists("/proc/sys/net/ipv6"),
            "own_proc": self.own_proc,
            "tags": self.time is not None,
        }
        return facts, fds

    def do_namespaces(self, _fds: list[int], hosts: int, bridges: int, like: list[bytes | None]) -> Answer:
        """Network namespaces, each with a socket that speaks rtnetlink in it; first those for hosts.

        Those for bridges may be an earlier lab's, and have a bridge ``like`` this in them already. The value tells of
        them: by number, the packets that the bridge has received and sent.
        """
        if hosts + bridges > _FEW // 2:
            newest = os.dup(self.base)
            os.close(newest)
            self._make_room(newest, 2 * (hosts + bridges))
        return self.supply.hand_out(hosts, bridges, like)

    def _inside(self, net: int) -> _Inside:
        self.supply.touch(net)
        return _Inside(net, self.base)

    def do_netlink(self, fds: list[int]) -> Answer:
        with self._inside(fds[0]):
            return None, [_fresh.netlink_socket()]

    def do_socket(self, fds: list[int], family: int, kind: int, protocol: int) -> Answer:
        with self._inside(fds[0]):
            return None, [_socket.socket(family, kind, protocol).detach()]

    def do_tun(self, fds: list[int], name: str, frames: bool) -> Answer:
        with self._inside(fds[0]):
            return None, [_kernel.open_tun(name, frames=frames)]

    def do_sysctl(self, fds: list[int], name: str, value: bytes | None) -> Answer:
        path = "/proc/sys/net/" + name
        with self._inside(fds[0]):
            if value is not None:
                _fresh.write(path, value)
            return _fresh.read(path), []

    def do_files(self, fds: list[int], name: str | None, etc: tuple[str, str] | None) -> Answer:
        """What a host has of its own besides its network; what is forbidden here is left out.

        A mount namespace in which /sys/class/net and /proc/net are the host's, and so are, given ``etc``, /etc/hosts
        and /etc/resolv.conf; the directory of these; and, given ``name``, a UTS namespace whose host name that is.
        The value says which of the three there are.
        """
        if self.outfitter is None:
            from . import _outfit  # not every session runs something in a host

            self.outfitter = _outfit.Outfitter(self.mounts if self.own_mounts else None, own_sys=self.own_proc)
        with self._inside(fds[0]):
            return self.outfitter.fit_out(name, etc)

    def do_tables(self, fds: list[int], names: list[str]) -> Answer:
        """Open files of the host's /proc/net, which they stay; what the kernel has not is an empty file."""
        paths = ["/proc/net/" + name for name in names]
        answer: list[int] = []
        with self._inside(fds[0]):
            try:
                for path in paths:
                    answer.append(os.open(path if os.path.exists(path) else os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                for fd in answer:
                    os.close(fd)
                raise
        return None, answer

    def do_tag(self, _fds: list[int]) -> Answer:
        """A time namespace, used as a mark that every process started under it carries and cannot lose."""
        if self.time is None:
            return None, []
        _kernel.unshare(_kernel.CLONE_NEWTIME, "CLONE_NEWTIME")
        try:
            return None, [os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)]
        finally:
            _kernel.setns(self.time, _kernel.CLONE_NEWTIME, "time namespace")

    def do_start(self, fds: list[int], spec: dict[str, Any]) -> Answer:
        """Start a command.

        ``fds``: network, mount and UTS namespace, tag, status socket, its own descriptors, and those of its output.

        Where there is no mount or UTS namespace or tag, the network namespace stands in for it.
        """
        from . import _exec  # not every session runs commands

        net, mounts, uts, tag, status, *own = fds
        own, output = own[: len(spec["targets"])], own[len(spec["targets"]) :]
        inside = [
            net,
            mounts if spec["files"] else None,
            uts if spec["named"] else None,
            tag if spec["tagged"] else None,
        ]
        outside = [self.base, self.mounts, self.outfitter.uts if self.outfitter is not None else None, self.time]
        place = _exec.Place(inside, outside, confined=self.confines)
        pid, failure = _exec.start(spec, own, place)
        if failure is not None:
            return failure, []
        try:
            waiter = os.dup(status)
            self.running[pid] = waiter, self._keep(output)
            self._make_room(waiter)
            return None, [os.pidfd_open(pid)]
        except OSError:
            os.kill(pid, _signal.SIGKILL)  # not reaped yet, so it is this process
            raise

    def _keep(self, output: list[int]) -> int:
        """Keep a program's output from now on; -1 if that is not wanted."""
        if not output:
            return -1
        from . import _keeping

        return _keeping.begin(self.kept, self.poll, output)

    def do_keep(self, fds: list[int]) -> Answer:
        """Keep what a callable writes."""
        self._make_room(self._keep(fds))
        return None, []

    @staticmethod
    def _make_room(newest: int, needed: int = 0) -> None:
        """Have a limit of open files that leaves room above ``newest``, a descriptor below which all are taken."""
        if newest + needed > _FEW:
            from . import _exec

            _exec.make_room(newest + needed + _SPARE)

    def do_drain(self, _fds: list[int]) -> Answer:
        """Return when all that programs have written so far is where it is kept."""
        for keeper in self.kept.values():
            keeper.drain()
        return None, []

    def do_end(self, fds: list[int], kind: str, inodes: list[int], gently: bool, like: Sequence[bytes] = ()) -> Answer:
        """Kill every process in these namespaces; return how many there were, when all are gone.

        Gently: if some listen to SIGTERM, they are sent that, and the answer is a pipe that ends when they are gone.
        Whoever asked waits for that, as long as it pleases, and asks again. Meanwhile we serve others.

        ``fds``: namespaces of bridges that may be kept for other labs; and what these are ``like``.
        """
        for kind_of_bridge, bridge in zip(like, fds):  # noqa: B905 - as many
            self.supply.keep(kind_of_bridge, bridge)
        try:
            depth = None if self.own_proc else self.depth
            ended, asked = _ending.end_processes(kind, inodes, depth, gently=gently, reap=self._reap)
            return ended, [self._pipe_of_ends(asked)] if asked else []
        finally:
            self._reap()

    def _pipe_of_ends(self, asked: list[int]) -> int:
        try:
            read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            for fd in asked:
                os.close(fd)
            raise
        together = set(asked), write
        for fd in asked:
            self.leaving[fd] = together
            self.poll.register(fd, select.POLLIN)
        return read

    def _tell_of_end(self, fd: int) -> None:
        """One that was sent SIGTERM has ended: a byte for each, and after the last the end of the pipe."""
        others, pipe = self.leaving.pop(fd)
        self.poll.unregister(fd)
        os.close(fd)
        others.discard(fd)
        try:
            os.write(pipe, b".")
        except OSError:
            return  # nobody waits any more
        finally:
            if not others:
                os.close(pipe)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            waiter, output = self.running.pop(pid, (None, -1))
            if waiter is not None:
                try:
                    if output in self.kept:  # whoever hears of its end can read its last words
                        self.kept[output].drain()
                    os.write(waiter, status.to_bytes(4, "little"))
                except OSError:
                    pass  # its Popen is gone
                finally:
                    os.close(waiter)


class _Inside:
    """A stay in a network namespace."""

    def __init__(self, net: int, base: int) -> None:
        self.net, self.base = net, base

    def __enter__(self) -> None:
        _kernel.setns(self.net, _kernel.CLONE_NEWNET, "network namespace")

    def __exit__(self, *_: object) -> None:
        _kernel.setns(self.base, _kernel.CLONE_NEWNET, "network namespace")
