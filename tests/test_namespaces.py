"""Namespaces by name, as ``ip netns`` knows them; attaching to those that exist; what is refused.

Whole runs of pytest with named namespaces are in `test_named_runs.py`.
"""

from __future__ import annotations

import itertools
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pace import seconds

from pytest_netns import Host, Lab, Namespace, NetnsError, Pair, PlanError, ping
from pytest_netns._broker import broker

pytestmark = pytest.mark.kernel

#: Seconds that nobody waits where all is well.
PATIENT = seconds(20)
NAMES = Path("/run/netns")
NO_PROCESS = 2**22 + 1  # above the highest number that Linux gives (proc_sys_kernel(5), pid_max)

needs_ip = pytest.mark.skipif(shutil.which("ip") is None, reason="needs the program ip: apt install iproute2")
numbers = itertools.count()


@pytest.fixture
def name(netns: Host) -> str:  # noqa: ARG001 - skips where there are no namespaces at all
    """A name for a namespace that nobody else has; skips without root."""
    if broker().rootless:
        pytest.skip(f"names in {NAMES} are root's")
    return f"test-{os.getpid()}-{next(numbers)}"


def listed() -> set[str]:
    """What ``ip netns`` lists, and ``ls /run/netns``."""
    shown = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    names = {line.split()[0] for line in shown.splitlines()}
    assert names == (set(os.listdir(NAMES)) if NAMES.exists() else set())
    return names


def inside_by_ip(name: str, *command: str) -> str:
    """Run a program by ``ip netns exec``."""
    done = subprocess.run(["ip", "netns", "exec", name, *command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


class TestNamed:
    @needs_ip
    def test_ip_netns_sees_a_named_namespace_while_it_lives(self, name: str) -> None:
        """``ip netns`` lists a named namespace and runs programs in it, until it is closed."""
        assert name not in listed()
        with Namespace(name) as namespace:
            assert name in listed()
            assert namespace.name == name
            assert inside_by_ip(name, "readlink", "/proc/self/ns/net") == f"net:[{namespace.id}]"
        assert name not in listed()
        namespace.close()

    @needs_ip
    def test_a_named_lab_is_listed_with_all_its_places(self, name: str) -> None:
        """``Lab(named=True)`` names hosts and bridge; ``ip netns exec`` finds in each what belongs there."""
        hosts, bridge = [f"{name}-b", f"{name}-s"], f"b{name[4:]}"
        before = listed()
        with Lab(named=True) as lab:
            first, second = lab.pair(hosts=hosts, bridge=bridge)
            assert listed() - before >= {*hosts, bridge}
            for host in (first, second):
                assert f"inet {host.ip}/24" in inside_by_ip(host.name, "ip", "address", "show", "eth0")
            assert "UP" in inside_by_ip(bridge, "ip", "link", "show", bridge)
            assert ping(first, second, timeout=PATIENT)
        assert not listed() & {*hosts, bridge}

    def test_a_taken_name_is_refused(self, name: str) -> None:
        """Making a name twice is a clear error; the first stays as it is, and nothing half-made is left."""
        with Namespace(name) as first:
            descriptors, names = len(os.listdir("/proc/self/fd")), set(os.listdir(NAMES))
            with pytest.raises(FileExistsError, match=f"{name}.* exists already; .*ip netns del {name}"):
                Namespace(name)
            assert os.stat(NAMES / name).st_ino == first.id
            assert len(os.listdir("/proc/self/fd")) == descriptors
            assert {each for each in os.listdir(NAMES) if each.startswith(name)} <= names
        assert not (NAMES / name).exists()

    def test_networks_of_the_same_names_get_numbers(self, name: str) -> None:
        """A second network with the same hosts, of this lab or another, is named too: with numbers."""
        hosts = [f"{name}-b", f"{name}-s"]
        with Namespace(hosts[0]) as first, Lab(named=True) as lab, Lab(named=True) as other:
            pairs = [lab.pair(hosts=hosts, bridge=False), other.pair(hosts=hosts, bridge=False)]
            labels = [[host.namespace.name for host in pair] for pair in pairs]
            assert labels == [[f"{name}-b-2", f"{name}-s"], [f"{name}-b-3", f"{name}-s-2"]]
            for pair in pairs:
                assert [host.name for host in pair] == hosts
                for host in pair:
                    assert os.stat(NAMES / str(host.namespace.name)).st_ino == host.namespace.id
            longest = lab.host("x" * 63), other.host("x" * 63)
            assert [host.namespace.name for host in longest] == ["x" * 63, "x" * 50 + "-2"]
            assert os.stat(NAMES / hosts[0]).st_ino == first.id
        assert not {each for each in os.listdir(NAMES) if each.startswith((name, "xxxx"))}

    def test_a_plain_file_of_that_name_is_left_alone(self, name: str) -> None:
        """What is in the way of a name, namespace or not, is neither used nor removed."""
        with Namespace(f"{name}-first"):  # so that the place for names exists
            (NAMES / name).write_text("somebody's")
            try:
                with pytest.raises(FileExistsError):
                    Namespace(name)
                assert (NAMES / name).read_text() == "somebody's"
            finally:
                (NAMES / name).unlink()

    @pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "../x", "a b", "-a", "x" * 64, "a\n", "a\0", 7, b"a"])
    def test_a_name_that_is_none_is_refused_before_anything_is_made(self, netns: Host, bad: Any) -> None:  # noqa: ARG002
        """A malformed name is an error that shows it, with and without root."""
        before = os.listdir("/proc/self/fd")
        with pytest.raises(PlanError, match="namespace name"):
            Namespace(bad)
        assert os.listdir("/proc/self/fd") == before

    @needs_ip
    def test_any_name_that_ip_netns_takes_can_be_attached_to(self, name: str) -> None:
        """Also one that could not be a host's; and nothing is left open."""
        odd = f"{name}@home_"
        subprocess.run(["ip", "netns", "add", odd], check=True)
        try:
            before = len(os.listdir("/proc/self/fd"))
            with Host.attach(odd) as host:
                assert host.name == odd
                assert host.namespace.id == os.stat(NAMES / odd).st_ino
            assert len(os.listdir("/proc/self/fd")) == before
        finally:
            subprocess.run(["ip", "netns", "del", odd], check=True)

    @needs_ip
    def test_a_removed_name_does_not_trouble_the_end(self, name: str) -> None:
        """``ip netns del`` takes the name only: the namespace is used on, and closed without complaint."""
        with Lab(named=True) as lab:
            host = lab.host(name)
            subprocess.run(["ip", "netns", "del", name], check=True)
            assert name not in listed()
            assert host.call(os.readlink, "/proc/self/ns/net") == f"net:[{host.namespace.id}]"
            assert ping(host, "127.0.0.1", timeout=PATIENT)

    @needs_ip
    def test_a_name_that_is_used_again_belongs_to_its_second_owner(self, name: str) -> None:
        """Closing the first owner of a name that was removed and given again leaves the second's."""
        first = Namespace(name)
        subprocess.run(["ip", "netns", "del", name], check=True)
        with Namespace(name) as second:
            first.close()
            assert os.stat(NAMES / name).st_ino == second.id
        assert not (NAMES / name).exists()

    def test_a_named_namespace_outlives_the_process_that_made_it(self, name: str) -> None:
        """The process is gone with its descriptors; the name holds the namespace, with all that is in it."""
        shown, told = os.pipe()
        with open(shown, "rb") as reader:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of a fork where threads run
                child = os.fork()
            if child == 0:
                code = 1
                try:
                    os.write(told, str(Namespace(name).id).encode())
                    code = 0
                finally:
                    os._exit(code)
            os.close(told)
            assert os.waitpid(child, 0)[1] == 0
            identity = int(reader.read())
        with Host.attach(name) as host:
            try:
                assert host.namespace.id == identity
                assert host.call(os.readlink, "/proc/self/ns/net") == f"net:[{identity}]"
            finally:
                broker().unbind_name(str(NAMES / name), host.namespace.fileno())
        assert not (NAMES / name).exists()

    def test_a_killed_process_leaves_no_names(self, name: str) -> None:
        """After ``kill -9`` of the process that asked for names they are gone, and no others are touched."""
        script = (
            "import sys, time\n"
            "from pytest_netns import Lab, Namespace\n"
            "from pytest_netns._broker import broker\n"
            "lab = Lab(named=True)\n"
            "kept = [lab.host(name) for name in sys.argv[1:]]\n"
            "print(broker()._process.pid, flush=True)\n"
            "sys.stdin.read()\n"
        )
        names = [f"{name}-{letter}" for letter in "abc"]
        with Namespace(name) as ours, ExitStack() as stack:
            python = subprocess.Popen(
                [sys.executable, "-c", script, *names],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(python)
            assert python.stdout is not None
            helper = os.pidfd_open(int(python.stdout.readline()))
            stack.callback(os.close, helper)
            assert all((NAMES / each).exists() for each in names)
            python.send_signal(signal.SIGKILL)
            assert select.select([helper], [], [], PATIENT)[0]
            assert not any((NAMES / each).exists() for each in names)
            assert os.stat(NAMES / name).st_ino == ours.id

    def test_without_root_a_name_is_refused_with_the_cure(self, netns: Host) -> None:  # noqa: ARG002
        """Names need root: the error says so, and what to type; nothing is left."""
        if not broker().rootless:
            pytest.skip("root may give names")
        before = os.listdir("/proc/self/fd")
        for make in (lambda: Namespace("nobodys-name"), lambda: Lab(named=True).host("nobodys-name")):
            with pytest.raises(NetnsError, match=r"'nobodys-name' in /run/netns needs root.*: sudo env"):
                make()
        assert os.listdir("/proc/self/fd") == before
        assert not (NAMES / "nobodys-name").exists()


class TestAttach:
    def test_a_namespace_is_attached_to_by_process_path_and_descriptor(self, netns_pair: Pair) -> None:
        """Whichever way it is found, it is the same namespace, and does what the host does."""
        beijing, shanghai = netns_pair
        with beijing.popen(["cat"], stdin=subprocess.PIPE) as cat, ExitStack() as stack:
            where = f"/proc/{cat.pid}/ns/net"
            for host in (
                Host.attach(pid=cat.pid),
                Host.attach(path=where),
                Host.attach(path=Path(where)),
                Host.attach(where),
                Host.attach(fd=beijing.namespace.fileno()),
            ):
                stack.enter_context(host)
                assert host.namespace.id == beijing.namespace.id
                assert host.interfaces.keys() == beijing.interfaces.keys()
                assert (host.ip, host.ip6) == (beijing.ip, beijing.ip6)
                assert host.call(os.readlink, "/proc/self/ns/net") == f"net:[{beijing.namespace.id}]"
                assert ping(host, shanghai, timeout=PATIENT)
                host.close()
                host.close()
                assert cat.poll() is None
        assert ping(beijing, shanghai, timeout=PATIENT)

    def test_a_descriptor_is_duplicated(self, netns: Host) -> None:
        """The descriptor given stays the caller's: closing either leaves the other."""
        fd = os.dup(netns.namespace.fileno())
        with Namespace.attach(fd=fd) as namespace:
            os.close(fd)
            assert namespace.id == netns.namespace.id
            assert os.fstat(namespace.fileno()).st_ino == namespace.id

    def test_the_machines_own_namespace(self, netns: Host) -> None:  # noqa: ARG002
        """Root can attach to the machine's namespace; without root the refusal says why."""
        if broker().rootless:
            with pytest.raises(NetnsError, match=f"process {os.getpid()} cannot be .*without root only"):
                Namespace.attach(pid=os.getpid())
            return
        with Host.attach(pid=os.getpid()) as machine:
            assert machine.namespace.id == os.stat("/proc/self/ns/net").st_ino
            assert machine.interfaces.keys() == {name for _, name in socket.if_nameindex()}

    @pytest.mark.parametrize("what", ["file", "directory", "fifo", "socket", "/dev/null", "/proc/self/ns/uts"])
    def test_what_is_no_network_namespace_is_refused(self, netns: Host, tmp_path: Path, what: str) -> None:  # noqa: ARG002
        """A path to something else is refused by name, without waiting, and no descriptor is left."""
        path = Path(what) if what.startswith("/") else tmp_path / what
        with socket.socket(socket.AF_UNIX) as server:
            if what == "file":
                path.touch()
            elif what == "directory":
                path.mkdir()
            elif what == "fifo":
                os.mkfifo(path)
            elif what == "socket":
                server.bind(str(path))
            before = os.listdir("/proc/self/fd")
            with pytest.raises(NetnsError, match=rf"'{path}' cannot be (entered|opened) as a network namespace: "):
                Namespace.attach(path=path)
            assert os.listdir("/proc/self/fd") == before

    def test_what_is_not_there_is_refused(self, netns: Host) -> None:  # noqa: ARG002
        """An unknown name, path or process is an error of the kind that Python has for it."""
        with pytest.raises(FileNotFoundError, match=r"at the name 'nobodys-name'; there are "):
            Namespace.attach("nobodys-name")
        with pytest.raises(FileNotFoundError, match="at '/nowhere/net'"):
            Namespace.attach("/nowhere/net")
        with pytest.raises(ProcessLookupError, match=f"there is no process {NO_PROCESS}"):
            Namespace.attach(pid=NO_PROCESS)

    @pytest.mark.parametrize(
        ("given", "complaint"),
        [
            ({}, "exactly one of name, path, pid and fd, not none"),
            ({"pid": 1, "fd": 2}, "exactly one"),
            ({"name": 7}, "name 7: expected"),
            ({"name": b"beijing"}, "expected a name"),
            ({"name": "bei\0jing"}, "null"),
            ({"pid": 0}, "pid 0: expected"),
            ({"pid": True}, "pid True: expected"),
            ({"pid": "1"}, "pid '1': expected"),
            ({"fd": -1}, "fd -1: expected"),
            ({"fd": False}, "fd False: expected"),
            ({"fd": 2**20 - 1}, "no such descriptor"),
            ({"fd": 2**70}, "no such descriptor"),
        ],
    )
    def test_what_cannot_be_one_is_refused(self, netns: Host, given: dict[str, Any], complaint: str) -> None:  # noqa: ARG002
        """What is no name, path, process or descriptor is shown with what was expected."""
        with pytest.raises(PlanError, match=complaint):
            Namespace.attach(**given)
