"""The experiment: six things that two network namespaces, and the machine, do not share."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fresh import own_interfaces
from pace import seconds

from pytest_netns import Host, Pair, PairFactory, ping

pytestmark = pytest.mark.kernel

#: Seconds that nobody waits where all is well.
PATIENT = seconds(20)

needs_ip = pytest.mark.skipif(shutil.which("ip") is None, reason="needs the program ip: apt install iproute2")


def test_network_devices_are_not_shared(netns_pair: Pair) -> None:
    """Two namespaces each hold an eth0 of their own; the machine holds neither, nor the bridge's ports."""
    beijing, shanghai = netns_pair
    assert netns_pair.bridge is not None
    assert own_interfaces(beijing) == own_interfaces(shanghai) == {"lo", "eth0"}
    assert beijing.interfaces["eth0"].mac != shanghai.interfaces["eth0"].mac
    beijing["eth0"].down()
    assert not beijing.interfaces["eth0"].up
    assert shanghai.interfaces["eth0"].up
    places = (beijing, shanghai, netns_pair.bridge)
    made = {state.mac for place in places for state in place.interfaces.values() if state.kind == "veth"}
    assert len(made) == 4
    assert not made & {path.read_text().strip() for path in Path("/sys/class/net").glob("*/address")}


@pytest.mark.parametrize(
    ("setting", "table", "counter", "address"),
    [
        ("ipv4.ip_default_ttl", "snmp", "InEchos", "127.0.0.1"),
        ("ipv6.conf.all.hop_limit", "snmp6", "Icmp6InEchos", "::1"),
    ],
    ids=["ipv4", "ipv6"],
)
def test_ip_stacks_are_not_shared(netns_pair: Pair, setting: str, table: str, counter: str, address: str) -> None:
    """Each namespace has an IP stack of its own: settings and statistics of one move in no other one."""
    beijing, shanghai = netns_pair
    of_machine = Path("/proc/sys/net", setting.replace(".", "/"))
    if not of_machine.exists():
        pytest.skip(f"the machine has no {of_machine}")
    others = (of_machine.read_text().strip(), shanghai.sysctl(setting))
    assert "77" not in others
    assert beijing.sysctl(setting, 77) == "77"
    assert (of_machine.read_text().strip(), shanghai.sysctl(setting)) == others

    def echoes(host: Host) -> int:
        return host.call(read_counter, f"/proc/net/{table}", counter)

    before = echoes(beijing), echoes(shanghai)
    assert ping(beijing, address, count=3, timeout=PATIENT)
    assert (echoes(beijing), echoes(shanghai)) == (before[0] + 3, before[1])


def test_equal_addresses_may_exist_twice(netns_pair: Pair, netns_pair_factory: PairFactory) -> None:
    """Two networks use the same addresses at the same time, and each connection stays in its own."""
    with netns_pair_factory() as second, ExitStack() as stack:
        assert [host.ip for host in netns_pair] == [host.ip for host in second] == ["10.0.0.1", "10.0.0.2"]
        server, client, client_of_second = (
            stack.enter_context(host.socket())
            for host in (netns_pair["shanghai"], netns_pair["beijing"], second["beijing"])
        )
        server.bind(("10.0.0.2", 80))
        server.listen()
        client.settimeout(PATIENT)
        client.connect(("10.0.0.2", 80))
        client_of_second.settimeout(PATIENT)
        with pytest.raises(ConnectionRefusedError):
            client_of_second.connect(("10.0.0.2", 80))


@needs_ip
def test_routing_tables_are_not_shared(netns_pair: Pair) -> None:
    """A route, a table and a rule that one namespace has are in no other one, and not on the machine."""
    beijing, shanghai = netns_pair
    ip(beijing, "route add 203.0.113.0/25 via 10.0.0.2")
    ip(beijing, "route add 203.0.113.128/25 via 10.0.0.2 table 77")
    ip(beijing, "rule add from 10.0.0.9 lookup 77")
    assert "203.0.113.0/25 via 10.0.0.2 dev eth0" in ip(beijing, "route show")
    assert "203.0.113.128/25 via 10.0.0.2 dev eth0" in ip(beijing, "route show table 77")
    assert "from 10.0.0.9 lookup 77" in ip(beijing, "rule show")
    assert "203.0.113." not in ip(shanghai, "route show table all")
    assert "10.0.0.9" not in ip(shanghai, "rule show")
    network = f"\t{int.from_bytes(socket.inet_aton('203.0.113.0'), sys.byteorder):08X}\t"
    assert network in beijing.call(Path("/proc/net/route").read_text)
    assert network not in Path("/proc/thread-self/net/route").read_text()


def test_firewall_rules_are_not_shared(netns_pair: Pair) -> None:
    """A rule that drops all that leaves one namespace is neither listed nor at work in any other one."""
    beijing, shanghai = netns_pair
    if beijing.call(rule_sets) is None:
        pytest.skip("this kernel has no nftables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4)")
    assert beijing.call(rule_sets) == shanghai.call(rule_sets) == []
    assert ping(beijing, "127.0.0.1", timeout=PATIENT)
    beijing.call(let_nothing_out, "of-beijing")
    assert beijing.call(rule_sets) == ["of-beijing"]
    assert shanghai.call(rule_sets) == []
    refused = ping(beijing, "127.0.0.1", timeout=PATIENT)
    assert (refused.sent, refused.received) == (0, 0)
    assert "packet filter" in refused.unsent[0].text
    assert ping(shanghai, "127.0.0.1", timeout=PATIENT)
    if os.geteuid() == 0:  # the machine's own rules cannot even be read without
        assert "of-beijing" not in (rule_sets() or [])


@pytest.mark.netns(interfaces=("east0", "west0"))
def test_proc_net_and_sys_class_net_are_not_shared(netns_pair: Pair) -> None:
    """/proc/net and /sys/class/net show a host's own interfaces, to callables and to programs."""
    before = set(os.listdir("/sys/class/net"))
    for host, name in zip(netns_pair, ("east0", "west0"), strict=True):
        mine = set(host.interfaces)
        assert own_interfaces(host) == {"lo", name}
        assert set(host.call(os.listdir, "/sys/class/net")) - {"bonding_masters"} == mine
        assert set(host.call(interfaces_of_proc_net)) == mine
        assert set(output(host, "ls /sys/class/net").split()) - {"bonding_masters"} == mine
        assert f"{name}:" in output(host, "cat /proc/net/dev")
        address = host.call(Path(f"/sys/class/net/{name}/address").read_text).strip()
        assert address == host.interfaces[name].mac
    assert set(os.listdir("/sys/class/net")) == before
    assert not {"east0", "west0"} & (before | set(interfaces_of_proc_net()))


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["ipv4", "ipv6"]
)
def test_bound_ports_are_not_shared(
    netns_pair: Pair, family: socket.AddressFamily, address: str, kind: socket.SocketKind
) -> None:
    """One port is bound on the machine and in each host at once, and each has only its own visitors."""
    beijing, shanghai = netns_pair
    with ExitStack() as stack:
        on_machine = stack.enter_context(socket.socket(family, kind))
        try:
            on_machine.bind((address, 0))
        except OSError as error:
            pytest.skip(f"the machine has no {address}: {error}")
        port = on_machine.getsockname()[1]
        in_beijing = stack.enter_context(beijing.socket(family, kind))
        in_beijing.bind((address, port))
        if kind == socket.SOCK_STREAM:
            on_machine.listen()
            in_beijing.listen()
        from_shanghai = stack.enter_context(shanghai.socket(family, kind))
        with pytest.raises(ConnectionRefusedError):
            knock(from_shanghai, address, port)
        knock(stack.enter_context(beijing.socket(family, kind)), address, port, wait=False)
        in_beijing.settimeout(PATIENT)
        heard = stack.enter_context(in_beijing.accept()[0]) if kind == socket.SOCK_STREAM else in_beijing
        heard.settimeout(PATIENT)
        assert heard.recv(9) == b"knock"
        in_shanghai = stack.enter_context(shanghai.socket(family, kind))
        in_shanghai.bind((address, port))
        with pytest.raises(OSError, match="in use"):
            stack.enter_context(shanghai.socket(family, kind)).bind((address, port))


def test_abstract_unix_sockets_are_not_shared(netns_pair: Pair) -> None:
    """An abstract unix socket is reached in its own namespace only; its name is free in all others."""
    beijing, shanghai = netns_pair
    name = f"\0netns-rows-{os.getpid()}"
    with ExitStack() as stack:

        def unix(place: Host | None) -> socket.socket:
            made = socket.socket(socket.AF_UNIX) if place is None else place.socket(socket.AF_UNIX)
            return stack.enter_context(made)

        server = unix(beijing)
        server.bind(name)
        server.listen()
        unix(beijing).connect(name)
        for place in (shanghai, None):
            with pytest.raises(ConnectionRefusedError):
                unix(place).connect(name)
            unix(place).bind(name)


def test_path_unix_sockets_are_shared(netns_pair: Pair) -> None:
    """A unix socket with a path is not isolated: other hosts and the machine reach it by the file."""
    beijing, shanghai = netns_pair
    # Not tmp_path, which may be longer than the 107 bytes of a unix(7) address.
    with tempfile.TemporaryDirectory(dir="/tmp") as directory, beijing.socket(socket.AF_UNIX) as server:
        server.bind(f"{directory}/s")
        server.listen()

        def greet(make: Callable[[int], socket.socket]) -> None:
            with make(socket.AF_UNIX) as client:
                client.connect(f"{directory}/s")
                client.sendall(b"hello")

        visits: list[Callable[[], None]] = [
            partial(greet, socket.socket),
            partial(greet, shanghai.socket),
            partial(shanghai.call, greet, socket.socket),
        ]
        server.settimeout(PATIENT)
        for visit in visits:
            visit()
            accepted, _ = server.accept()
            with accepted:
                assert accepted.recv(5) == b"hello"


# What the tests do inside


def output(host: Host, command: str) -> str:
    """Run a program in a host; return what it prints."""
    return str(host.run(command.split(), check=True, capture_output=True, text=True).stdout)


def ip(host: Host, command: str) -> str:
    return output(host, f"ip {command}")


def knock(visitor: socket.socket, address: str, port: int, *, wait: bool = True) -> None:
    """Say something to a port; a refusal is raised by TCP's connect, or by the wait after UDP's send."""
    visitor.settimeout(PATIENT)
    visitor.connect((address, port))
    visitor.send(b"knock")
    if wait:
        visitor.recv(1)


def read_counter(path: str, counter: str) -> int:
    """One of the counters of /proc/net/snmp (names in one line, values in the next) or snmp6 (one a line)."""
    lines = [line.split() for line in Path(path).read_text().splitlines()]
    for names, values in pairwise(lines):
        if names[0] == counter:
            return int(names[1])
        if names[0] == values[0] and counter in names:
            return int(values[names.index(counter)])
    raise LookupError(counter)


def interfaces_of_proc_net() -> list[str]:
    return [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]


def rule_sets() -> list[Any] | None:
    """The nftables tables of the namespace that this runs in; None if the kernel has no nftables."""
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.nftables.main import NFTables

    try:
        with NFTables(nfgen_family=socket.AF_INET) as nft:
            return [table.get_attr("NFTA_TABLE_NAME") for table in nft.get_tables()]
    except (NetlinkError, OSError) as error:
        number = error.code if isinstance(error, NetlinkError) else error.errno
        if number in (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT):
            return None
        raise


def let_nothing_out(table: str) -> None:
    """``nft add table TABLE``, ``nft add chain TABLE out { type filter hook output …; policy drop; }``."""
    from pyroute2.nftables.main import NFTables

    with NFTables(nfgen_family=socket.AF_INET) as nft:
        nft.table("add", name=table)
        nft.chain("add", table=table, name="out", hook="output", type="filter", policy=0)
