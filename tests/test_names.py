"""Programs and callables in a host find every other host by its name, and nothing of the machine's names."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from programs import program

from pytest_netns import Host, Lab, Pair, PlanError
from pytest_netns._etc import asks_files
from pytest_netns._names import hosts_file, resolver_file
from pytest_netns._plan import NOTHING, Plan, add_end, add_node, add_segment

#: What the machine is, before anything runs.
MACHINE = socket.gethostname()


def addresses(name: str, family: int = 0) -> list[str]:
    """What getaddrinfo(3) makes of a name, in its order."""
    found = socket.getaddrinfo(name, 80, socket.AddressFamily(family), socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def asked(host: Host, name: str) -> list[str]:
    """What getent(1), a program of the C library, finds."""
    lines = host.run(["getent", "ahosts", name], capture_output=True, text=True).stdout.splitlines()
    return [line.split()[0] for line in lines if "STREAM" in line]


#: A program that says for each name in its input what address that has.
ANSWERING = """
import socket, sys
for line in sys.stdin:
    try:
        print(socket.gethostbyname(line.strip()), flush=True)
    except OSError:
        print("none", flush=True)
"""


def plan() -> Plan:
    """A host on each side of a router; who is at home on both; one on neither."""
    made = add_segment(add_segment(NOTHING, "lan"), "wan", subnet6=None)
    on = {"laptop": ["lan"], "server": ["wan"], "home": ["lan", "wan"], "Spare_1": []}
    for name, segments in on.items():
        made = add_node(made, name, forwards=name == "home")
        for segment in segments:
            made = add_end(made, name, segment)
    return made


class TestFiles:
    @pytest.mark.parametrize(
        ("place", "of_home"),
        [
            ("laptop", ["10.0.0.2", "fd00:10::2", "10.0.1.2"]),
            ("server", ["10.0.1.2", "10.0.0.2", "fd00:10::2"]),
            ("lan", ["10.0.0.2", "fd00:10::2", "10.0.1.2"]),
        ],
    )
    def test_who_has_several_addresses_is_first_met_at_a_near_one(self, place: str, of_home: list[str]) -> None:
        """Every host is named at every address, those on a segment that the reader shares first."""
        lines = [line.split() for line in hosts_file(plan(), place, {"server": ["192.0.2.1"]}).splitlines()]
        assert [address for address, *names in lines if names == ["home"]] == of_home
        assert [address for address, *names in lines if names == ["server"]] == ["10.0.1.1", "192.0.2.1"]
        assert ["127.0.0.1", "localhost"] in lines

    def test_who_has_no_address_knows_its_own_name(self) -> None:
        """And nobody else does, for nobody could reach it."""
        assert "127.0.1.1\tSpare_1\n" in hosts_file(plan(), "Spare_1", {})
        assert "Spare_1" not in hosts_file(plan(), "laptop", {})

    def test_name_servers_are_written_as_programs_read_them(self) -> None:
        """resolv.conf(5)."""
        text = resolver_file(["10.0.0.2", "fe80::1%eth0"], ["example.org", "lan"])
        assert text == "search example.org lan\nnameserver 10.0.0.2\nnameserver fe80::1%eth0\n"
        assert "nameserver" not in resolver_file([], [])

    @pytest.mark.parametrize(
        ("servers", "search", "message"),
        [
            (["dns"], [], "name server 'dns': expected an IP address"),
            ([7], [], "name server 7: expected an IP address"),
            (["10.0.0.1%eth0"], [], "only a link-local address has a zone"),
            (["10.0.0.1"] * 4, [], "4 name servers: the C library asks 3 at most"),
            (["10.0.0.1"], ["a b"], "search 'a b': expected a domain"),
            (["10.0.0.1"], [""], "search '': expected a domain"),
        ],
    )
    def test_what_no_program_could_read_is_refused(self, servers: list[str], search: list[str], message: str) -> None:
        """Before anything is written."""
        with pytest.raises(PlanError, match=message):
            resolver_file(servers, search)

    @pytest.mark.parametrize(
        ("text", "becomes"),
        [
            ("passwd: files\nhosts:\tfiles   dns # fine\n", None),
            (
                "hosts: files mdns4_minimal [NOTFOUND=return] dns\nnetworks: files\n",
                "networks: files\nhosts: files dns\n",
            ),
            ("hosts: resolve\npasswd: sss\nhosts: files dns\n", "passwd: sss\nhosts: files dns\n"),
            ("#hosts: files dns\n", "#hosts: files dns\nhosts: files dns\n"),
            (None, "hosts: files dns\n"),
        ],
    )
    def test_only_files_and_dns_are_asked_for_hosts(self, text: str | None, becomes: str | None) -> None:
        """Daemons of the machine, which know its names, are not; users and groups are found as before."""
        assert asks_files(text) == becomes


@pytest.mark.kernel
class TestLookups:
    def test_every_host_finds_every_other(self, netns_lab: Lab) -> None:
        """Callables and programs, in both families, routers and bridges included."""
        lan, wan = netns_lab.bridge("lan"), netns_lab.bridge("wan", subnet6=None)
        laptop, server = netns_lab.host("laptop", lan), netns_lab.host("server", wan)
        home = netns_lab.router("home", lan, wan)
        for host in (laptop, server, home):
            assert set(host.call(addresses, "laptop")) == set(asked(host, "laptop")) == {"10.0.0.1", "fd00:10::1"}
            assert host.call(addresses, "server", socket.AF_INET) == asked(host, "server") == ["10.0.1.1"]
        assert server.call(socket.gethostbyname, "home") == "10.0.1.2"
        assert laptop.call(socket.gethostbyname, "home") == "10.0.0.2"
        assert set(asked(lan, "laptop")) == {"10.0.0.1", "fd00:10::1"}  # type: ignore[arg-type]
        assert laptop.run(["ping", "-c1", "-W5", "server"], capture_output=True).returncode == 0
        assert laptop.call(socket.gethostbyname, "localhost") == "127.0.0.1"

    def test_a_host_is_called_what_it_is(self, netns_pair: Pair) -> None:
        """gethostname(2), for callables, programs, those with limits of their own, and calls inside calls."""
        beijing, shanghai = netns_pair
        assert beijing.call(socket.gethostname) == "beijing"
        assert shanghai.run(["hostname"], capture_output=True, text=True).stdout == "shanghai\n"
        forked = shanghai.run(["uname", "-n"], capture_output=True, text=True, user=os.getuid())
        assert forked.stdout == "shanghai\n"
        assert beijing.call(lambda: shanghai.call(socket.gethostname)) == "shanghai"
        assert beijing.call(lambda: socket.gethostbyname(socket.gethostname())) == beijing.ip
        assert netns_pair.bridge is not None
        assert netns_pair.bridge.call(socket.gethostname) == "br0"
        assert socket.gethostname() == MACHINE

    @pytest.mark.netns
    def test_a_private_body_knows_itself_alone(self) -> None:
        """A name that the machine could resolve is refused at once; its own and localhost are there."""
        assert socket.gethostname() == "netns"
        assert socket.gethostbyname("netns") == "127.0.1.1"
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("example.org", 80)
        assert "nameserver" not in Path("/etc/resolv.conf").read_text()

    @pytest.mark.netns(inside="beijing")
    def test_a_body_in_a_host_finds_the_others(self, netns_pair: Pair) -> None:
        """As all that runs there."""
        assert socket.gethostbyname("shanghai") == netns_pair["shanghai"].ip
        assert MACHINE not in Path("/etc/hosts").read_text()

    def test_who_runs_already_learns_of_changes(self, netns_lab: Lab) -> None:
        """Hosts that come, go or get another address: what was started before finds them when the call has returned."""
        lan = netns_lab.bridge("lan")
        one = netns_lab.host("one", lan)
        with one.popen(
            [sys.executable, "-c", ANSWERING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        ) as program:
            assert program.stdin is not None
            assert program.stdout is not None

            def found(name: str) -> str:
                program.stdin.write(name + "\n")  # type: ignore[union-attr]
                return str(program.stdout.readline().strip())  # type: ignore[union-attr]

            assert found("two") == "none"
            two = netns_lab.host("two", lan)
            assert found("two") == "10.0.0.2"
            spare = netns_lab.host("spare")
            assert found("spare") == "none"
            spare.add_address("lo", "192.0.2.7/32")
            assert found("spare") == "192.0.2.7"
            two.close()
            assert found("two") == "none"
            program.stdin.close()

    def test_what_a_program_writes_is_its_hosts(self, netns_pair: Pair) -> None:
        """A DHCP client's resolv.conf is for its host alone, and the machine's is untouched."""
        beijing, shanghai = netns_pair
        before = Path("/etc/resolv.conf").read_text() if os.path.exists("/etc/resolv.conf") else None
        beijing.run("echo nameserver 10.0.0.9 > /etc/resolv.conf", shell=True, check=True)
        assert beijing.call(Path("/etc/resolv.conf").read_text) == "nameserver 10.0.0.9\n"
        assert "nameserver" not in shanghai.call(Path("/etc/resolv.conf").read_text)
        assert (Path("/etc/resolv.conf").read_text() if before is not None else None) == before

    @pytest.mark.once
    def test_a_name_server_of_the_labs_own(self, netns_pair: Pair, tmp_path: Path) -> None:
        """Programs ask the server they were given, with the domains to search, until they are given none."""
        beijing, shanghai = netns_pair
        words = ["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file=", "--user="]
        words += ["--address=/www.example.org/203.0.113.80", "--log-facility=-"]
        with shanghai.popen([program("dnsmasq"), *words], stderr=subprocess.PIPE, text=True, cwd=tmp_path) as server:
            assert server.stderr is not None
            assert any("using" in line or "started" in line for line in iter(server.stderr.readline, ""))
            beijing.use_nameserver(shanghai, search=["example.org"])
            for name in ("www.example.org", "www"):
                assert beijing.call(socket.gethostbyname, name) == "203.0.113.80"
            assert beijing.run(["getent", "hosts", "www"], capture_output=True).returncode == 0
            beijing.use_nameserver()
            assert beijing.run(["getent", "hosts", "www"], capture_output=True).returncode == 2
            server.kill()


#: Changes what the machine has in /etc, in a mount namespace of its own; then runs the rest there.
WITHOUT = """
mount --make-rprivate / &&
mkdir -p "$1/etc" &&
cp -a /etc/passwd /etc/group /etc/ssl "$1/etc/" 2>/dev/null
ln -s ../nowhere/resolv.conf "$1/etc/resolv.conf"
ln -s ssl "$1/etc/as-before"
echo 'hosts: resolve [!UNAVAIL=return] mdns files dns' > "$1/etc/nsswitch.conf"
mount --bind "$1/etc" /etc && shift && exec "$@"
"""


@pytest.fixture
def poor_machine(tmp_path: Path) -> list[str]:
    """Words that run a program on a machine whose /etc has no hosts and leads nowhere."""
    flags = ["--mount"] if os.geteuid() == 0 else ["--mount", "--user", "--map-current-user", "--keep-caps"]
    return ["unshare", *flags, "sh", "-c", WITHOUT, "sh", str(tmp_path)]


@pytest.mark.kernel
def test_a_machine_that_lacks_these_files(poor_machine: list[str]) -> None:
    """Where there is nothing to mount over, /etc is another, which leads to all that was there."""
    inner = """
import os, socket
from pathlib import Path
from pytest_netns import Lab

with Lab() as lab:
    beijing, shanghai = lab.pair()
    print(beijing.call(socket.gethostbyname, "shanghai"))
    beijing.use_nameserver(shanghai)
    print(beijing.call(Path("/etc/resolv.conf").read_text).strip())
    print(beijing.call(Path("/etc/nsswitch.conf").read_text).strip())
    same = [beijing.call(Path(f"/etc/{name}").read_bytes) == Path(f"/etc/{name}").read_bytes() for name in ("passwd",)]
    print(*same, beijing.call(os.path.realpath, "/etc/as-before"), os.path.lexists("/etc/hosts"))
"""
    result = subprocess.run(
        [*poor_machine, sys.executable, "-c", inner], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stdout.splitlines() == [
        "10.0.0.2",
        "nameserver 10.0.0.2",
        "hosts: files dns",
        "True /etc/.machine/ssl False",
    ], result.stderr


def test_whoever_programs_become_can_read_the_names(netns_lab: Lab) -> None:
    """A strict umask, of the test or of a program before, is not theirs."""
    lan = netns_lab.bridge("lan")
    first, second = netns_lab.host("first", lan), netns_lab.host("second", lan)
    first.run(["true"], check=True, umask=0o777)
    shown = second.run(["stat", "-c", "%a", "/etc/hosts", "/etc/resolv.conf"], capture_output=True, text=True)
    assert shown.stdout.split() == ["644", "644"]
