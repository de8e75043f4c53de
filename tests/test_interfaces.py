"""Interfaces switched off and on: what is ready when the call returns, and what is kept."""

from __future__ import annotations

import threading
import time

import pytest
from pace import PACE, seconds

from pytest_netns import Host, Lab, Namespace, Pair, ping

pytestmark = pytest.mark.kernel

#: Seconds: less than the second after which ARP and neighbour discovery try again, so a lost packet shows.
LOST_AFTER = 0.7
ROUNDS = 5


@pytest.fixture
def plain(netns_lab: Lab) -> tuple[Host, Host]:
    """Two hosts joined without a bridge."""
    one, other = netns_lab.host("one"), netns_lab.host("other")
    netns_lab.link(one, other)
    return one, other


def assert_first_packets(one: Host, other: Host) -> None:
    for source, target in ((one, other), (other, one)):
        for address in (target.ip, target.ip6):
            assert address is not None
            result = ping(source, address, timeout=seconds(20))
            assert result
            assert result.max is not None
            assert result.max < LOST_AFTER, result


@pytest.mark.parametrize("known", [True, False], ids=["neighbours known", "neighbours unknown"])
@pytest.mark.parametrize("side", ["own", "peer", "port"])
def test_the_first_packet_after_up_gets_through(netns_pair: Pair, side: str, known: bool) -> None:
    """Whichever end of a cable was off, both ways and in both families, without a second's wait."""
    beijing, shanghai = netns_pair
    assert netns_pair.bridge is not None
    interface = {"own": beijing["eth0"], "peer": shanghai["eth0"], "port": netns_pair.bridge["veth-beijing"]}[side]
    for _ in range(ROUNDS):
        if known:
            assert_first_packets(beijing, shanghai)
        interface.down()
        assert not ping(beijing, shanghai, timeout=0.01)
        interface.up()
        assert_first_packets(beijing, shanghai)


def test_the_first_packet_after_up_gets_through_without_a_bridge(plain: tuple[Host, Host]) -> None:
    """The same of a veth pair straight between two hosts."""
    one, other = plain
    for _ in range(ROUNDS):
        one["eth0"].down()
        other["eth0"].down()
        one["eth0"].up()  # its other end is off: nothing to wait for
        assert not one["eth0"].state().carrier
        other["eth0"].up()
        assert_first_packets(one, other)


def test_both_ends_have_heard_when_the_call_returns(netns_pair: Pair) -> None:
    """The port of the bridge has lost and found its carrier by then."""
    beijing, _ = netns_pair
    assert netns_pair.bridge is not None
    for _ in range(ROUNDS):
        beijing["eth0"].down()
        port = netns_pair.bridge.interfaces["veth-beijing"]
        assert not port.carrier
        assert port.operstate in {"DOWN", "LOWERLAYERDOWN"}
        beijing["eth0"].up()
        port = netns_pair.bridge.interfaces["veth-beijing"]
        assert (port.carrier, port.operstate) == (True, "UP")


def test_addresses_and_routes_are_there_again(netns_lab: Lab) -> None:
    """Addresses stay when an interface goes down, those of the plan and others; the plan's routes come back."""
    lan, wan = netns_lab.bridge("lan"), netns_lab.bridge("wan")
    laptop, server = netns_lab.host("laptop", lan), netns_lab.host("server", wan)
    router = netns_lab.router("home", lan, wan)
    laptop.add_address("eth0", "10.0.0.200/24")
    laptop.add_address("eth0", "fd00:10::200/64")
    addresses = laptop["eth0"].state().addresses
    assert_first_packets(laptop, server)
    for host, name in ((laptop, "eth0"), (router, "eth1"), (router, "eth0")):
        host[name].down()
        assert not ping(laptop, server, timeout=0.01)
        host[name].up()
        assert laptop["eth0"].state().addresses == addresses
        assert_first_packets(laptop, server)


def test_state_tells_addresses_whoever_gave_them(netns_pair: Pair) -> None:
    """Those of the plan, those added, and those that a program gives."""
    beijing, _ = netns_pair
    assert beijing["eth0"].state().addresses[:2] == ("10.0.0.1/24", "fd00:10::1/64")
    beijing.add_address("eth0", "10.0.0.9/24")
    assert "10.0.0.9/24" in beijing.interfaces["eth0"].addresses
    assert beijing.interfaces["lo"].addresses == ("127.0.0.1/8", "::1/128")


def test_an_added_address_can_be_used_at_once(netns_pair: Pair) -> None:
    """IPv6 as IPv4: the first packet to and from an address that was just added gets through."""
    beijing, shanghai = netns_pair
    assert_first_packets(beijing, shanghai)
    for number in range(16, 16 + 10 * ROUNDS):
        for address in (f"10.0.0.{number}/24", f"fd00:10::{number:x}/64"):
            beijing.add_address("eth0", address)
            result = ping(shanghai, address.partition("/")[0], timeout=20)
            assert result
            assert result.max is not None
            assert result.max < LOST_AFTER, result


def test_another_thread_may_read_meanwhile(netns_pair: Pair) -> None:
    """Whoever reads a host's interfaces takes no announcement away from who waits for an address."""
    beijing, _ = netns_pair
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            assert "eth0" in beijing.interfaces

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        begin = time.monotonic()
        for number in range(1, int(50 / PACE) + 2):
            beijing.add_address("eth0", f"fd00:10::1:{number:x}/64")
        beijing["eth0"].down()
        beijing["eth0"].up()
        assert time.monotonic() - begin < 50  # one that is missed is waited for for a minute
    finally:
        over.set()
        for reader in readers:
            reader.join()


def test_what_happens_unread_fills_no_queue(netns: Host, netns_pair: Pair) -> None:
    """Thousands of addresses that come and go by others' hands are no trouble to who looks at the host."""
    with Host.attach(fd=netns.namespace.fileno()) as attached, Namespace() as bare:
        hosts = [attached, netns, netns_pair.hosts[0], Host("bare", bare)]
        for host in hosts:
            assert "lo" in host.interfaces
        change = "".join(f"address {verb} fd00:7::1/128 dev lo\n" for _ in range(1000) for verb in ("add", "del"))
        for host in hosts:
            host.run(["ip", "-batch", "-"], input=change, text=True, check=True)
        for host in hosts:
            for _ in range(2):
                assert "lo" in host.interfaces
            assert host.namespace.netlink._announced == []
