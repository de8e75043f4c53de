"""Sockets that live in a host and are used from here, and the files by which the kernel shows a network."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_netns import Host, Pair


@pytest.fixture
def hosts(netns_pair: Pair) -> tuple[Host, Host]:
    first, second = netns_pair
    return first, second


def address(host: Host, family: int) -> str:
    found = host.ip if family == socket.AF_INET else host.ip6
    assert found is not None
    return found


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])


class TestSockets:
    @FAMILIES
    def test_tcp_between_hosts(self, hosts: tuple[Host, Host], family: int) -> None:
        """A listener on a low port in one host, a connection from another, privileged or not."""
        first, second = hosts
        with second.socket(family) as listener, first.socket(family) as client:
            listener.bind((address(second, family), 80))
            listener.listen()
            client.connect((address(second, family), 80))
            connection, peer = listener.accept()
            with connection:
                client.sendall(b"hello")
                assert connection.recv(5) == b"hello"
            assert peer[0] == address(first, family)

    @FAMILIES
    def test_udp_between_hosts(self, hosts: tuple[Host, Host], family: int) -> None:
        """Datagrams, with the sender's address; the same port in both hosts and on the machine."""
        first, second = hosts
        with (
            first.socket(family, socket.SOCK_DGRAM) as one,
            second.socket(family, socket.SOCK_DGRAM) as two,
        ):
            one.bind((address(first, family), 53))
            two.bind((address(second, family), 53))
            one.sendto(b"question", (address(second, family), 53))
            data, sender = two.recvfrom(100)
            assert (data, sender[0], sender[1]) == (b"question", address(first, family), 53)

    def test_raw_icmp(self, hosts: tuple[Host, Host]) -> None:
        """A raw socket sends an echo request and gets the reply."""
        first, second = hosts
        body = struct.pack("!BBHHH", 8, 0, 0, 0x1234, 1)
        request = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        with first.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
            sock.settimeout(20)
            sock.sendto(request, (str(second.ip), 0))
            reply, _ = sock.recvfrom(1000)
        assert reply[20] == 0
        assert reply[24:28] == request[4:8]

    def test_packets(self, hosts: tuple[Host, Host]) -> None:
        """A packet socket is bound to the host's interface by its name there, and sees frames of the other host."""
        first, second = hosts
        with (
            first.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as one,
            second.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as two,
        ):
            for sock in (one, two):
                sock.bind(("eth0", 0x88B5))
                sock.settimeout(20)
            macs = [bytes.fromhex(host.interfaces["eth0"].mac.replace(":", "")) for host in hosts]
            frame = macs[1] + macs[0] + b"\x88\xb5" + b"x" * 46
            one.send(frame)
            assert two.recv(2000) == frame

    def test_abstract_unix_names_are_the_hosts_own(self, hosts: tuple[Host, Host]) -> None:
        """The same abstract name in both hosts and on the machine; a connection stays in its host."""
        name = f"\0pytest-netns-test-{os.getpid()}"
        first, second = hosts
        with socket.socket(socket.AF_UNIX) as here, first.socket(socket.AF_UNIX) as one:
            here.bind(name)
            one.bind(name)
            one.listen()
            with second.socket(socket.AF_UNIX) as two:
                with pytest.raises(ConnectionRefusedError):
                    two.connect(name)
                two.bind(name)
            with first.socket(socket.AF_UNIX) as client:
                client.connect(name)

    def test_it_is_an_ordinary_socket(self, netns: Host) -> None:
        """Family, type, protocol, blocking, inheritance and default time-out as ``socket.socket`` has them."""
        for arguments in (
            (),
            (socket.AF_INET6,),
            (socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK),
            (socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.IPPROTO_UDP),
            (socket.AF_UNIX, socket.SOCK_SEQPACKET),
        ):
            for limit in (None, 3.5):
                socket.setdefaulttimeout(limit)
                try:
                    with netns.socket(*arguments) as ours, socket.socket(*arguments) as theirs:
                        seen = [
                            (sock.family, sock.type, sock.proto, sock.gettimeout(), sock.get_inheritable(), type(sock))
                            for sock in (ours, theirs)
                        ]
                finally:
                    socket.setdefaulttimeout(None)
                assert seen[0] == seen[1]

    @pytest.mark.parametrize(
        "arguments",
        [(12345,), (socket.AF_INET, 77), (socket.AF_INET, socket.SOCK_STREAM, 200), ("a",), (1.5,), (2**40,)],
        ids=str,
    )
    def test_what_cannot_be_opened_is_refused_alike(self, netns: Host, arguments: tuple[Any, ...]) -> None:
        """The same error as ``socket.socket`` raises, and the helper survives it."""

        def outcome(make: Callable[..., socket.socket]) -> tuple[object, ...]:
            with pytest.raises((OSError, TypeError, OverflowError)) as caught:
                make(*arguments)
            return type(caught.value), getattr(caught.value, "errno", None)

        assert outcome(netns.socket) == outcome(socket.socket)
        netns.socket().close()

    def test_an_event_loop_serves_and_connects(self, hosts: tuple[Host, Host]) -> None:
        """``asyncio.start_server`` and ``open_connection`` take sockets of two hosts."""
        first, second = hosts

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            writer.close()

        async def main() -> bytes:
            listener = second.socket()
            listener.bind((str(second.ip), 7))
            server = await asyncio.start_server(answer, sock=listener)
            client = first.socket()
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, (str(second.ip), 7))
            reader, writer = await asyncio.open_connection(sock=client)
            writer.write(b"hello\n")
            reply = await reader.read()
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()
            return reply

        assert asyncio.run(main()) == b"HELLO\n"

    def test_a_closed_socket_leaves_nothing(self, netns: Host) -> None:
        """A hundred sockets: as many descriptors as before."""
        netns.socket().close()
        before = os.listdir("/proc/self/fd")
        for _ in range(100):
            netns.socket().close()
        assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def machines_forwarding() -> Iterator[str]:
    path = Path("/proc/sys/net/ipv4/ip_forward")
    before = path.read_text()
    yield before
    assert path.read_text() == before


class TestFiles:
    @pytest.mark.parametrize("how", ["callable", "program"])
    def test_the_trees_of_a_host_are_its_own(self, hosts: tuple[Host, Host], how: str) -> None:
        """/sys/class/net and /proc/net show the host's interfaces and addresses, and /proc its processes."""
        first, _ = hosts

        def look() -> tuple[set[str], set[str], bool]:
            names = set(os.listdir("/sys/class/net")) - {"bonding_masters"}
            devices = {line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]}
            return names, devices, "10.0.0.1" in Path("/proc/net/fib_trie").read_text()

        if how == "callable":
            seen = first.call(look)
        else:
            show = "ls /sys/class/net; echo; tail -n +3 /proc/net/dev; echo; cat /proc/net/fib_trie"
            output = first.run(show, shell=True, stdout=-1, text=True, check=True).stdout
            names, devices, tree = output.split("\n\n")
            seen = (
                set(names.split()) - {"bonding_masters"},
                {line.split(":")[0].strip() for line in devices.splitlines()},
                "10.0.0.1" in tree,
            )
        own = set(first.interfaces)
        assert seen == (own, own, True)

    def test_a_process_finds_itself(self, netns: Host) -> None:
        """``getpid``, /proc/self, /proc/self/task and the parent's list of processes agree, for programs too."""

        def look() -> tuple[int, str, list[str]]:
            return os.getpid(), os.readlink("/proc/self"), os.listdir("/proc/self/task")

        pid, link, tasks = netns.call(look)
        assert [str(pid)] == [link] == tasks
        shown = netns.run(["sh", "-c", "echo $$ $(cut -d' ' -f1 /proc/$$/stat)"], stdout=-1, text=True).stdout
        first, second = shown.split()
        assert first == second

    @pytest.mark.parametrize("how", ["callable", "program", "sysctl"])
    def test_settings_land_in_the_host(self, hosts: tuple[Host, Host], machines_forwarding: str, how: str) -> None:
        """A write below /proc/sys/net changes this host: neither the other one nor the machine."""
        first, second = hosts
        path = "/proc/sys/net/ipv4/ip_forward"
        if how == "callable":
            first.call(Path(path).write_text, "1")
        elif how == "program":
            first.run(["sh", "-c", f"echo 1 > {path}"], check=True)
        else:
            assert first.sysctl("net.ipv4.ip_forward", 1) == "1"
        assert first.sysctl("ipv4.ip_forward") == first.call(Path(path).read_text).strip() == "1"
        assert second.sysctl("ipv4.ip_forward") == "0"
        assert Path(path).read_text() == machines_forwarding

    def test_a_setting_that_does_not_exist_or_is_refused_says_so(self, netns: Host) -> None:
        """With the kernel's own number, and the path."""
        with pytest.raises(FileNotFoundError) as missing:
            netns.sysctl("ipv4.no_such_setting")
        assert missing.value.filename == "/proc/sys/net/ipv4/no_such_setting"
        with pytest.raises(OSError, match="Invalid argument") as refused:
            netns.sysctl("ipv4.ip_forward", "many")
        assert refused.value.errno == errno.EINVAL

    def test_files_are_the_users(self, netns: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The directory is that of the caller, new files are the user's, and what he may not read stays unread."""
        monkeypatch.chdir(tmp_path)
        secret = tmp_path / "secret"
        secret.write_text("x")
        secret.chmod(0)

        def readable(path: Path) -> bool:
            with suppress(PermissionError):
                return bool(path.read_text())
            return False

        def look() -> tuple[str, int, bool]:
            Path("made").write_text("inside")
            return os.getcwd(), os.getuid(), readable(secret)

        assert netns.call(look) == (str(tmp_path), os.getuid(), readable(secret))
        netns.run("echo > by-a-program", shell=True, check=True)
        for name in ("made", "by-a-program"):
            assert (tmp_path / name).stat().st_uid == os.getuid()

    def test_a_directory_that_is_gone_does_not_matter(
        self, netns: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A call works from a working directory that has been removed, and so does a program."""
        monkeypatch.chdir(tmp_path)
        tmp_path.rmdir()
        assert netns.call(lambda: 1) == 1
        netns.run(["true"], check=True)
