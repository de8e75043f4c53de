"""What `ping` calls an answer, what it does not, and what it says then; on the real kernel."""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import math
import os
import pickle
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from pace import seconds

from pytest_netns._echo import own_identifier
from pytest_netns._lab import Lab
from pytest_netns.packets import PingResult, ping

pytestmark = pytest.mark.kernel

if TYPE_CHECKING:
    from pytest_netns._host import Host

Pair: TypeAlias = "tuple[Host, Host]"

BOTH = pytest.mark.parametrize("version", [4, 6])
#: Long enough for a proper answer on a busy machine, and never waited for where one comes.
PATIENT = seconds(20)


def address_of(host: Host, version: int) -> str:
    address = host.ip if version == 4 else host.ip6
    assert address is not None
    return address


def add_route(host: Host, network: str, gateway: str | None) -> None:
    """Add a route to a /16 by SIOCADDRT (route(7)), which needs no program and no netlink."""
    assert gateway is not None
    ends = b"".join(
        struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
        for address in (network, gateway, "255.255.0.0")
    )
    flags = 0x1 | 0x2  # RTF_UP, RTF_GATEWAY
    entry = struct.pack("@L48sHhLPhPLLH0L", 0, ends, flags, *[0] * 8)
    with host.socket(socket.AF_INET, socket.SOCK_DGRAM, 0) as control:
        fcntl.ioctl(control, 0x890B, entry)


@BOTH
def test_a_host_of_another_network_is_not_mistaken_for_one_here(netns_pair: Pair, version: int) -> None:
    """Where an address is another host's here, a ping of the host that is meant would tell of the wrong one."""
    beijing, shanghai = netns_pair
    others = {"subnet": None} if version == 6 else {"subnet6": None}
    with Lab() as lab:
        first, second = lab.pair(hosts=("beijing", "tokyo"), **others)
        address = address_of(second, version)
        with pytest.raises(ValueError, match=f"tokyo is in another network .*there {address} belongs to shanghai"):
            ping(beijing, second)
        with pytest.raises(ValueError, match=f"{address} belongs to the source itself"):
            ping(shanghai, second)
        assert ping(beijing, address, timeout=PATIENT)  # an address is an address
        assert ping(first, second, timeout=PATIENT)
    with Lab() as lab:
        elsewhere = lab.pair(subnet="10.7.0.0/24", subnet6=None).hosts[0]
        assert not ping(beijing, elsewhere, timeout=0.01)  # no such address here: an answer like any other


class TestAnswers:
    @BOTH
    def test_an_echo_comes_back(self, netns_pair: Pair, version: int) -> None:
        """An echo between two hosts comes back: the result is true, with its reply and its time."""
        beijing, shanghai = netns_pair
        result = ping(beijing, address_of(shanghai, version))
        assert result
        assert (result.count, result.sent, result.received, result.loss) == (1, 1, 1, 0)
        assert result.min == result.avg == result.max == result.rtts[0] > 0
        (reply,) = result.replies
        assert (reply.version, reply.src) == (version, address_of(shanghai, version))
        assert reply.dst == result.source_address == address_of(beijing, version)
        assert (reply.payload.type, reply.payload.seq) == ({4: 0, 6: 129}[version], 1)
        assert (reply.ttl if version == 4 else reply.hlim) == 64
        assert result.unexpected == result.unsent == ()

    def test_the_target_may_be_anything_that_says_where(self, netns_pair: Pair) -> None:
        """A host, an address as text or object, and a name that the source resolves are all targets."""
        beijing, shanghai = netns_pair
        assert shanghai.ip is not None
        for target in (shanghai, shanghai.ip, ipaddress.ip_address(shanghai.ip), shanghai.name):
            result = ping(beijing, target, timeout=PATIENT)
            assert result
            assert result.address == shanghai.ip

    def test_both_ways(self, netns_pair: Pair) -> None:
        """Each of the two hosts reaches the other, and itself."""
        for source in netns_pair:
            for target in netns_pair:
                assert ping(source, target, timeout=PATIENT)

    @BOTH
    def test_sequence_numbers_count_from_one(self, netns_pair: Pair, version: int) -> None:
        """Three echoes are numbered 1, 2, 3 and their replies and times are in that order."""
        beijing, shanghai = netns_pair
        result = ping(beijing, address_of(shanghai, version), 3, timeout=PATIENT)
        assert [reply.payload.seq for reply in result.replies] == [1, 2, 3]
        assert len(result.rtts) == 3
        assert (result.min, result.max) == (min(result.rtts), max(result.rtts))
        assert result.avg == pytest.approx(sum(result.rtts) / 3)

    @BOTH
    @pytest.mark.parametrize("size", [0, 1, 2, 11, 56, 1472, 1473, 8000, 65_507])
    def test_sizes(self, netns_pair: Pair, version: int, size: int) -> None:
        """The payload has the size asked for and comes back whole, also when it was fragmented."""
        beijing, shanghai = netns_pair
        result = ping(beijing, address_of(shanghai, version), size=size, timeout=PATIENT)
        assert result
        assert len(result.answers[0].data) == size + {4: 28, 6: 48}[version]

    @BOTH
    def test_no_router_no_hop(self, netns_pair: Pair, version: int) -> None:
        """A bridge is no hop: an echo with a time to live of 1 arrives."""
        beijing, shanghai = netns_pair
        assert ping(beijing, address_of(shanghai, version), ttl=1, timeout=PATIENT)

    def test_link_local(self, netns_pair: Pair) -> None:
        """The interface after a link-local address is one of the source's."""
        beijing, shanghai = netns_pair
        rows = shanghai.call(Path("/proc/net/if_inet6").read_text).splitlines()
        (digits,) = [row.split()[0] for row in rows if row.startswith("fe80") and row.endswith(" eth0")]
        local = ipaddress.IPv6Address(bytes.fromhex(digits))
        for scope in ("eth0", beijing.interface_index("eth0")):
            result = ping(beijing, f"{local}%{scope}", timeout=PATIENT)
            assert result
            assert result.replies[0].src == str(local)

    def test_an_interval_is_kept(self, netns_pair: Pair) -> None:
        """With an interval an echo leaves no earlier, even where the one before has long been answered."""
        begin = time.perf_counter()
        assert ping(*netns_pair, 3, interval=0.05, timeout=PATIENT)
        assert time.perf_counter() - begin >= 2 * 0.05

    @BOTH
    def test_default_timeout_of_sockets(self, netns_pair: Pair, version: int) -> None:
        """A default timeout for all sockets of the process, as some tests set it, does not reach a ping."""
        beijing, shanghai = netns_pair
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(0.01)
        try:
            assert ping(beijing, address_of(shanghai, version), 2, timeout=PATIENT)
        finally:
            socket.setdefaulttimeout(before)

    def test_many(self, netns_pair: Pair) -> None:
        """A thousand echoes in one burst all come back."""
        beijing, shanghai = netns_pair
        result = ping(beijing, shanghai, 1000, interval=0, timeout=PATIENT)
        assert result
        assert result.unexpected == ()

    def test_from_threads(self, netns_pair: Pair) -> None:
        """Pings from eight threads of one process over one host at once do not hear each other's replies."""
        beijing, shanghai = netns_pair
        start = threading.Barrier(8)

        def work(_: int) -> list[PingResult]:
            start.wait(PATIENT)
            return [ping(beijing, shanghai, 3, timeout=PATIENT) for _ in range(25)]

        with ThreadPoolExecutor(8) as pool:
            results = [result for part in pool.map(work, range(8)) for result in part]
        assert [result for result in results if not result or result.unexpected] == []

    def test_identifiers_of_one_process_differ(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two pings at once have different identifiers, even where chance would give them the same."""
        chance = iter([b"aa", b"aa", b"bb", b"aa"])
        monkeypatch.setattr("pytest_netns._echo.os.urandom", lambda _: next(chance))
        with own_identifier() as one, own_identifier() as other:
            assert (one, other) == (b"aa", b"bb")
        with own_identifier() as later:
            assert later == b"aa"

    def test_in_a_running_event_loop(self, netns_pair: Pair) -> None:
        """A ping works from a coroutine."""

        async def body() -> PingResult:
            return ping(*netns_pair, timeout=PATIENT)

        assert asyncio.run(body())

    def test_result_survives_pickling(self, netns_pair: Pair) -> None:
        """A result made in another process arrives equal and complete."""
        result = ping(*netns_pair, timeout=PATIENT)
        again = pickle.loads(pickle.dumps(result))
        assert again == result
        assert bytes(again.replies[0]) == bytes(result.replies[0])

    def test_leaves_nothing_open_and_random_alone(self, netns_pair: Pair) -> None:
        """A ping opens nothing that it does not close, and does not touch the state of `random`."""
        beijing, shanghai = netns_pair
        ping(beijing, shanghai, timeout=PATIENT)
        state, before = random.getstate(), sorted(os.listdir("/proc/self/fd"))
        for version in (4, 6):
            assert ping(beijing, address_of(shanghai, version), timeout=PATIENT)
        assert not ping(beijing, "10.9.9.9")
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert random.getstate() == state


class TestNoAnswer:
    @pytest.mark.parametrize("target", ["10.9.9.9", "2001:db8::9"])
    def test_no_route(self, netns_pair: Pair, target: str) -> None:
        """Without a route the result is false at once and gives the kernel's reason; nothing is raised."""
        beijing, _ = netns_pair
        result = ping(beijing, target, 2, timeout=PATIENT)
        assert not result
        assert (result.sent, result.received, result.loss) == (0, 0, 1)
        assert repr(result) == (
            f"<ping beijing -> {target}: 0 of 2 came back; "
            f"not sent: Network is unreachable — beijing has no route to {target}, echoes 1-2>"
        )

    @BOTH
    def test_nobody_there(self, netns_pair: Pair, version: int) -> None:
        """Where no neighbour answers, the kernel's own ICMP error ends the wait and is in the result."""
        beijing, _ = netns_pair
        target = "10.0.0.77" if version == 4 else str(ipaddress.ip_address(address_of(beijing, 6)) + 0x77)
        beijing.sysctl(f"ipv{version}/neigh/eth0/retrans_time_ms", 10)
        beijing.sysctl(f"ipv{version}/neigh/eth0/mcast_solicit", 1)
        result = ping(beijing, target, timeout=PATIENT)
        assert not result
        (note,) = result.unexpected
        assert (note.echo, note.address) == (1, address_of(beijing, version))
        text = {4: "host unreachable (type 3, code 1)", 6: "address unreachable (type 1, code 3)"}[version]
        assert note.text == f"destination unreachable: {text}"
        assert note.packet is not None
        assert note.packet.payload.type == {4: 3, 6: 1}[version]

    def test_a_router_without_a_route(self, netns_pair: Pair) -> None:
        """A router that knows no way on is named in the result, with its reason."""
        beijing, shanghai = netns_pair
        add_route(beijing, "10.5.0.0", shanghai.ip)
        shanghai.sysctl("ipv4/ip_forward", 1)
        result = ping(beijing, "10.5.0.1", timeout=PATIENT)
        assert not result
        text = "from 10.0.0.2: destination unreachable: network unreachable (type 3, code 0), echo 1"
        assert repr(result) == f"<ping beijing 10.0.0.1 -> 10.5.0.1: 0 of 1 came back; {text}>"

    def test_time_to_live_over(self, netns_pair: Pair) -> None:
        """The router at which an echo's time to live is over is named in the result."""
        beijing, shanghai = netns_pair
        add_route(beijing, "10.5.0.0", shanghai.ip)
        add_route(shanghai, "10.5.0.0", beijing.ip)
        shanghai.sysctl("ipv4/ip_forward", 1)
        result = ping(beijing, "10.5.0.1", ttl=1, timeout=PATIENT)
        assert not result
        assert [(note.echo, note.address) for note in result.unexpected] == [(1, "10.0.0.2")]
        assert result.unexpected[0].text == "time exceeded: ttl zero during transit (type 11, code 0)"


ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"count": 0}, ValueError, "count=0: expected an integer from 1 to 65535"),
    ({"count": 65_536}, ValueError, "count=65536: expected an integer from 1 to 65535"),
    ({"count": True}, TypeError, "count=True: expected an integer"),
    ({"count": 1.0}, TypeError, "count=1.0: expected an integer"),
    ({"size": -1}, ValueError, "size=-1: expected an integer from 0 to 65507"),
    ({"size": 65_508}, ValueError, "size=65508: expected an integer from 0 to 65507"),
    ({"size": 65_528, "target": "2001:db8::2"}, ValueError, "expected an integer from 0 to 65527"),
    ({"ttl": 0}, ValueError, "ttl=0: expected an integer from 1 to 255"),
    ({"ttl": 256}, ValueError, "ttl=256: expected an integer from 1 to 255"),
    ({"timeout": 0}, ValueError, "timeout=0: expected a number from 1e-06 to 86400"),
    ({"timeout": -1.5}, ValueError, "timeout=-1.5: expected a number"),
    ({"timeout": math.nan}, ValueError, "timeout=nan: expected a number"),
    ({"timeout": math.inf}, ValueError, "timeout=inf: expected a number"),
    ({"timeout": None}, TypeError, "timeout=None: expected a number"),
    ({"timeout": "1"}, TypeError, "timeout='1': expected a number"),
    ({"interval": -0.1}, ValueError, "interval=-0.1: expected a number from 0 to 86400"),
    ({"interval": "1"}, TypeError, "interval='1': expected a number"),
    ({"target": "nowhere"}, ValueError, "target='nowhere': beijing cannot resolve this name"),
    ({"target": ""}, ValueError, "target='': "),
    ({"target": 167_772_162}, TypeError, "target=167772162: expected a host, an address or a name"),
    ({"target": None}, TypeError, "target=None: expected a host, an address or a name"),
    ({"target": "0.0.0.0"}, ValueError, "expected the address of one host"),
    ({"target": "224.0.0.1"}, ValueError, "expected the address of one host"),
    ({"target": "ff02::1%eth0"}, ValueError, "expected the address of one host"),
    ({"target": "fe80::1"}, ValueError, "expected the interface too, such as fe80::1%eth0"),
    ({"source": "beijing"}, TypeError, "source='beijing': expected a host"),
]


class TestArguments:
    @pytest.mark.parametrize(("given", "error", "text"), ARGUMENTS, ids=lambda value: str(value)[:40])
    def test_a_bad_one_is_refused(
        self, netns_pair: Pair, given: dict[str, Any], error: type[Exception], text: str
    ) -> None:
        """A bad argument is an error that names it, its value and what was expected."""
        arguments: dict[str, Any] = dict(zip(("source", "target"), netns_pair, strict=True))
        with pytest.raises(error, match=f"ping: .*{re.escape(text)}"):
            ping(**{**arguments, **given})

    def test_an_interface_that_is_not_there(self, netns_pair: Pair) -> None:
        """An interface that the source lacks, after a link-local address, is an error that names it."""
        beijing, _ = netns_pair
        with pytest.raises(ValueError, match=r"ping: target='fe80::1%eth7': .*eth7"):
            ping(beijing, "fe80::1%eth7")


@BOTH
def test_scapy_is_imported_for_those_who_look_at_packets(version: int) -> None:
    """Neither the module nor a ping that is answered imports scapy, which takes a fifth of a second."""
    program = f"""
import sys
from pytest_netns import Lab, ping
with Lab() as lab:
    one, other = lab.pair()
    result = ping(one, other.ip if {version} == 4 else other.ip6, 3, timeout={PATIENT})
    assert result, result
    print({{"scapy", "pyroute2"}} & sys.modules.keys(), type(result.replies[0]).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set() IP\n" if version == 4 else "set() IPv6\n", "")
