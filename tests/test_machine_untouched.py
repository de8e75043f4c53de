"""A session that uses everything leaves the machine's own network exactly as it was.

Looked at are interfaces, addresses, routes, rules, every file under /proc/sys/net, the packet filter (if ``nft``
is there to show it), mounts, and the names under /run/netns.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_netns import Lab

pytestmark = pytest.mark.kernel

#: Files whose contents move by themselves, whoever does what.
MOVING = {
    "core/flow_limit_cpu_bitmap": "shown in a form that depends on the processors that are on",
    "ipv4/route/flush": "may only be written",
    "ipv6/route/flush": "may only be written",
    "netfilter/nf_conntrack_count": "counts the connections of the moment",
    "ipv4/tcp_fastopen_key": "made up by the kernel at the first use",
}
#: Fields of `ip -j` that move by themselves.
MOVING_FIELDS = {
    "valid_life_time": "seconds left of a lease",
    "preferred_life_time": "seconds left of a lease",
    "expires": "seconds left of a route",
    "used": "counts look-ups of a route",
    "gc_timer": "timers of a bridge",
}

SESSION = """
import asyncio
import os
import socket

import pytest
from pytest_netns import Host, Lab, Namespace, ping

ROOT = os.geteuid() == 0


@pytest.mark.parametrize("bridge", ["br0", False])
def test_pair(netns_pair_factory, bridge):
    with netns_pair_factory(bridge=bridge, mtu=1400) as pair:
        beijing, shanghai = pair
        assert ping(beijing, shanghai.ip) and ping(shanghai, beijing.ip6)
        beijing.add_address("eth0", "10.0.0.9/24")
        beijing["eth0"].down()
        beijing["eth0"].up()


def test_settings(netns_pair):
    beijing, shanghai = netns_pair
    assert beijing.sysctl("ipv4.ip_forward", 1) == "1"
    beijing.sysctl("ipv4.conf.all.rp_filter", 2)
    beijing.sysctl("ipv4.conf.default.forwarding", 1)
    beijing.sysctl("ipv6.conf.all.forwarding", 1)
    beijing.call(lambda: open("/proc/sys/net/ipv4/ip_default_ttl", "w").write("42"))
    beijing.run(["sh", "-c", "echo 99 > /proc/sys/net/ipv4/ip_default_ttl"], check=True)


def test_programs(netns_pair):
    beijing, shanghai = netns_pair
    with beijing.popen(["cat"], stdin=-1, stdout=-1) as program:
        assert program.communicate(b"x")[0] == b"x"
    if os.path.exists("/usr/sbin/ip") or os.path.exists("/sbin/ip"):
        for line in (
            "link add name lo2 type dummy",
            "route add 192.0.2.0/24 dev lo",
            "rule add pref 5 lookup 7",
            "link set lo mtu 1400",
            "neigh add 10.0.0.77 lladdr 2:2:2:2:2:2 dev eth0",
        ):
            beijing.run(["ip", *line.split()])
    beijing.run(["nft", "add", "table", "inet", "left"]) if os.path.exists("/usr/sbin/nft") else None


def test_sockets(netns_pair):
    beijing, shanghai = netns_pair
    with shanghai.socket() as server, beijing.socket() as client:
        server.bind((shanghai.ip, 80))
        server.listen()
        client.connect((shanghai.ip, 80))
    with beijing.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP):
        pass


@pytest.mark.netns
def test_body():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 80))


@pytest.mark.netns(inside="beijing")
def test_body_in_a_host(netns_pair):
    assert os.listdir("/sys/class/net")


def test_plain():
    with Lab() as lab:
        pair = lab.pair(hosts=("a", "b"))
        attached = Host.attach(pid=os.getpid()) if ROOT else None
        assert asyncio.run(pair["a"].acall(os.getpid))
        if attached:
            attached.close()


@pytest.mark.skipif(not ROOT, reason="names need root")
def test_names():
    with Namespace(name=f"untouched-{os.getpid()}"):
        pass
    with Lab(named=True) as lab:
        lab.pair(hosts=(f"u1-{os.getpid()}", f"u2-{os.getpid()}"), bridge=f"ub{os.getpid()}")
"""


def test_a_session_leaves_the_machine_as_it_was(tmp_path: Path) -> None:
    """The machine's network is equal before and after a session that does all that a session can do."""
    (tmp_path / "test_session.py").write_text(SESSION)
    with Lab() as lab:  # where that is a module, the kernel loads it now, and makes a dummy0 of the machine's
        lab.host().run(["ip", "link", "add", "name", "lo2", "type", "dummy"], check=False)
    before = _machine()
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore", "--netns-missing=fail"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        check=False,
    )
    after = _machine()
    assert result.returncode == 0, result.stdout + result.stderr
    for what, value in before.items():
        assert after[what] == value, what


def test_the_look_at_the_machine_sees_a_change() -> None:
    """The comparison is no formality: in a namespace, where one may, each kind of change shows."""
    from pytest_netns import Lab

    with Lab() as lab:
        host = lab.pair()["beijing"]
        before = host.call(_machine)
        for change, what in (
            (lambda: host.add_address("eth0", "10.0.0.9/24"), "addresses"),
            (host["eth0"].down, "interfaces"),
            (lambda: host.sysctl("ipv4.ip_forward", 1), "settings"),
        ):
            change()
            after = host.call(_machine)
            assert after[what] != before[what], what
            before = after


def _machine() -> dict[str, object]:
    ip = shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin")
    seen: dict[str, object] = {"settings": _settings(), "mounts": _mounts(), "names": _names()}
    if ip is None:
        pytest.skip("no `ip` (package iproute2) to look at the machine with")
    for what, command in {
        "interfaces": "-d link",
        "addresses": "addr",
        "IPv4 routes": "-4 route show table all",
        "IPv6 routes": "-6 route show table all",
        "IPv4 rules": "-4 rule",
        "IPv6 rules": "-6 rule",
    }.items():
        text = subprocess.run([ip, "-j", *command.split()], capture_output=True, text=True, check=False).stdout
        seen[what] = _still(json.loads(text or "[]"))
    if nft := shutil.which("nft") or shutil.which("nft", path="/usr/sbin"):
        seen["filter"] = subprocess.run([nft, "list", "ruleset"], capture_output=True, text=True, check=False).stdout
    return seen


def _still(value: object) -> object:
    if isinstance(value, dict):
        return {word: _still(inner) for word, inner in value.items() if word not in MOVING_FIELDS}
    return [_still(inner) for inner in value] if isinstance(value, list) else value


def _settings() -> dict[str, str]:
    root = Path("/proc/sys/net")
    seen = {}
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder, name)
            relative = str(path.relative_to(root))
            if relative not in MOVING:
                try:
                    seen[relative] = path.read_text(errors="replace")
                except OSError as error:
                    seen[relative] = f"unreadable: {error.errno}"
    return seen


def _mounts() -> list[str]:
    # Without the numbers that Linux gives out anew, and without names that others make and remove meanwhile.
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted(" ".join(words[3:]) for words in lines if not words[4].startswith("/run/netns/"))


def _names() -> list[str]:
    own = ("untouched-", "u1-", "u2-", "ub")
    return (
        sorted(name for name in os.listdir("/run/netns") if name.startswith(own)) if os.path.isdir("/run/netns") else []
    )
