"""The experiment: what the note reads in the kernel's and iproute2's sources, as it holds here.

Names and attaching, which it reads there too, are in `test_namespaces.py`.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pace import seconds

from pytest_netns import Host, KernelError, NetnsError, Pair, _kernel, ping
from pytest_netns._broker import broker

pytestmark = pytest.mark.kernel

#: Seconds that nobody waits where all is well.
PATIENT = seconds(20)
#: An EtherType for local experiments (IEEE 802), which nothing else on the wire has.
EXPERIMENTAL = 0x88B5
#: Given to what runs inside by design; the other kinds of namespace are the test process's.
OWN_KINDS = {"net", "pid", "mnt", "uts"}

needs_ip = pytest.mark.skipif(shutil.which("ip") is None, reason="needs the program ip: apt install iproute2")
DIRECT = pytest.mark.parametrize("netns_pair", [{"bridge": False}], indirect=True, ids=["direct"])


def namespaces() -> dict[str, str]:
    """What /proc/self/ns shows of the six kinds of namespace that the note counts."""
    return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("ipc", "mnt", "net", "pid", "user", "uts")}


class TestIdentity:
    def test_a_child_sees_the_id_that_the_namespace_has(self, netns: Host) -> None:
        """A namespace's id is what a callable and a program in it see at /proc/self/ns/net."""
        expected = f"net:[{netns.namespace.id}]"
        assert netns.call(os.readlink, "/proc/self/ns/net") == expected
        shown = netns.run(["readlink", "/proc/self/ns/net"], capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == expected
        assert expected in repr(netns.namespace)
        assert os.fstat(netns.namespace.fileno()).st_ino == netns.namespace.id

    def test_the_other_kinds_of_namespace_are_the_parents_unless_asked_for(self, netns: Host) -> None:
        """Of the six kinds a host has its own net, pid, mnt and uts, and user without root; ipc stays."""
        expected = OWN_KINDS | ({"user"} if broker().rootless else set())
        outside = namespaces()
        script = "readlink /proc/self/ns/ipc /proc/self/ns/mnt /proc/self/ns/net /proc/self/ns/pid"
        script += " /proc/self/ns/user /proc/self/ns/uts"
        shown = netns.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split()
        for inside in (netns.call(namespaces), dict(zip(sorted(outside), shown, strict=True))):
            assert {kind for kind in outside if inside[kind] != outside[kind]} == expected

    def test_the_callers_own_namespace_does_not_change(self, netns: Host) -> None:
        """Commands, callables and blocks run inside by fork + setns; all threads of the caller stay put."""

        def everywhere() -> set[str]:
            tasks = os.listdir("/proc/self/task")
            return {os.readlink(f"/proc/self/task/{task}/ns/net") for task in tasks}

        before = everywhere()
        with netns.enter() as run:
            assert run(everywhere) == {f"net:[{netns.namespace.id}]"}
            assert everywhere() == before
            with netns.popen(["cat"], stdin=subprocess.PIPE) as cat:
                assert os.readlink(f"/proc/{cat.pid}/ns/net") == f"net:[{netns.namespace.id}]"
                assert everywhere() == before
        assert everywhere() == before
        assert f"net:[{netns.namespace.id}]" not in before


@pytest.fixture
def no_namespace(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """A descriptor of what the test's parameter names, which is no network namespace."""
    path = tmp_path / "file"
    path.touch()
    other = {
        "file": str(path),
        "directory": str(tmp_path),
        "uts": "/proc/self/ns/uts",
        "user": "/proc/self/ns/user",
    }
    fd = os.open(other[request.param], os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("no_namespace", ["file", "directory", "uts", "user"], indirect=True)
def test_setns_refuses_what_is_no_network_namespace(no_namespace: int) -> None:
    """A descriptor that is no network namespace, be it another kind of namespace, is refused by name."""
    own = os.readlink("/proc/self/ns/net")
    with pytest.raises(KernelError, match=r"setns\(network namespace\): Invalid argument") as caught:
        _kernel.setns(no_namespace, _kernel.CLONE_NEWNET, "network namespace")
    assert caught.value.errno == 22
    with pytest.raises(NetnsError, match=rf"descriptor {no_namespace} cannot be entered .*: it is not one"):
        Host.attach(fd=no_namespace)
    assert os.readlink("/proc/self/ns/net") == own


class TestVeth:
    @pytest.mark.parametrize("netns_pair", [{"bridge": False}, {}], indirect=True, ids=["direct", "bridge"])
    def test_what_one_end_sends_the_other_receives(self, netns_pair: Pair) -> None:
        """Frames sent on one end are captured on the other, byte for byte and in order, either way."""
        with ExitStack() as stack:
            ends = []
            for host in netns_pair:
                end = stack.enter_context(host.socket(socket.AF_PACKET, socket.SOCK_RAW))
                end.bind(("eth0", EXPERIMENTAL))
                end.settimeout(PATIENT)
                ends.append((end, bytes.fromhex(host.interfaces["eth0"].mac.replace(":", ""))))
            for (sender, source), (receiver, target) in (ends, ends[::-1]):
                frames = [
                    target + source + EXPERIMENTAL.to_bytes(2, "big") + os.urandom(size)
                    for size in (1, 45, 46, 47, 1499, 1500)
                ]
                for frame in frames:
                    assert sender.send(frame) == len(frame)
                assert [receiver.recv(65535) for _ in frames] == frames

    @needs_ip
    @pytest.mark.parametrize("netns_pair", [{"bridge": False}, {}], indirect=True, ids=["direct", "bridge"])
    def test_deleting_one_end_deletes_the_other(self, netns_pair: Pair) -> None:
        """With an end its peer goes, in whatever namespace that is."""
        beijing, shanghai = netns_pair
        other_place = netns_pair.bridge or shanghai
        end = beijing["eth0"]
        peer_index = end.state().peer_index
        (peer,) = (name for name, state in other_place.interfaces.items() if state.index == peer_index)
        beijing.run(["ip", "link", "delete", "eth0"], check=True)
        assert "eth0" not in beijing.interfaces
        assert peer not in other_place.interfaces
        with pytest.raises(NetnsError, match="interface eth0 is gone"):
            end.state()

    @DIRECT
    def test_one_end_down_takes_the_others_carrier(self, netns_pair: Pair) -> None:
        """Switching one end off takes the other's carrier, which stays up; switching it on brings it back."""
        beijing, shanghai = netns_pair
        near, far = beijing["eth0"], shanghai["eth0"]
        assert far.state().carrier
        near.down()
        state = far.state()
        assert (state.up, state.carrier) == (True, False)
        assert state.operstate in {"DOWN", "LOWERLAYERDOWN"}
        near.up()
        state = far.state()
        assert (state.up, state.carrier, state.operstate) == (True, True, "UP")
        assert ping(shanghai, beijing, timeout=PATIENT)

    @needs_ip
    def test_many_changes_fill_no_buffer(self, netns_pair: Pair) -> None:
        """What programs change in a host is not piled up for us until the socket that asks for its state is full."""
        beijing, _ = netns_pair
        changes = "link set eth0 alias one\nlink set eth0 alias two\n" * 500
        beijing.run(["ip", "-batch", "-"], input=changes, text=True, check=True, timeout=seconds(30))
        assert beijing["eth0"].state().up


class TestAdopt:
    def test_a_tun_device_is_moved_into_a_host(self, netns: Host, netns_pair: Pair) -> None:
        """A TUN device can be moved into a host, and serves it for whoever holds its descriptor."""
        beijing, _ = netns_pair
        with ExitStack() as stack:
            fd = make_tun(netns, "tun7")
            stack.callback(os.close, fd)
            before = netns["tun7"].state()
            moved = beijing.adopt(netns["tun7"])
            assert "tun7" not in netns.interfaces
            state = moved.state()
            assert (state.name, state.kind, state.up, state.mtu) == ("tun7", "tun", False, before.mtu)
            moved.up()
            beijing.add_address("tun7", "192.0.2.1/24")
            assert_answers_echo(fd, "192.0.2.1", "192.0.2.9")

    @needs_ip
    def test_a_name_that_the_host_has_already_is_refused(self, netns: Host, netns_pair: Pair) -> None:
        """An interface whose name is taken in the host, or that cannot be moved, stays where it is."""
        beijing, _ = netns_pair
        netns.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other"], check=True)
        with pytest.raises(KernelError, match="move eth0: File exists"):
            beijing.adopt(netns["eth0"])
        with pytest.raises(KernelError, match="move lo: Invalid argument"):
            beijing.adopt(netns["lo"])
        gone = netns["eth0"]
        netns.run(["ip", "link", "delete", "eth0"], check=True)
        with pytest.raises(KernelError, match="move eth0: No such device"):
            beijing.adopt(gone)


def make_tun(host: Host, name: str) -> int:
    """Make a TUN device in a host; return its descriptor."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def make() -> None:
        fd = os.open("/dev/net/tun", os.O_RDWR)
        # linux/if_tun.h: TUNSETIFF, IFF_TUN | IFF_NO_PI
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0001 | 0x1000))
        socket.send_fds(theirs, [b"t"], [fd])

    with mine, theirs:
        try:
            host.call(make)
        except (FileNotFoundError, PermissionError) as error:
            pytest.skip(f"no TUN device for this user: {error}")
        (fd,) = socket.recv_fds(mine, 1, 1)[1]
        return fd


def assert_answers_echo(fd: int, address: str, sender: str) -> None:
    """Put an ICMP echo into a TUN device and wait for its reply among what comes out."""
    from scapy.layers.inet import ICMP, IP

    os.write(fd, bytes(IP(src=sender, dst=address) / ICMP(id=7, seq=1) / b"over tun"))
    deadline = time.monotonic() + PATIENT
    while select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
        data = os.read(fd, 65535)
        if data[0] >> 4 == 4:
            reply = IP(data)
            assert (reply.src, reply.dst, reply[ICMP].type, reply[ICMP].seq) == (address, sender, 0, 1)
            assert bytes(reply[ICMP].payload) == b"over tun"
            return
    pytest.fail(f"no reply came out of the TUN device within {PATIENT:g} s")
