"""A lab that several tests share is as new after ``reset()``."""

from __future__ import annotations

import socket

import pytest
from pace import seconds
from programs import program

from pytest_netns import Host, Lab, Nat, ping

pytestmark = pytest.mark.kernel

PATIENT = seconds(20)


def neighbours(host: Host) -> set[str]:
    """Those that it has learned, but for what hosts that look for routers make known of themselves."""
    found = {
        message.get_attr("NDA_DST")
        for family in (socket.AF_INET, socket.AF_INET6)
        for message in host.namespace.netlink.dump(30, family)  # RTM_GETNEIGH
        if not message["state"] & 0xC0  # NUD_NOARP, NUD_PERMANENT
    }
    return {address for address in found if not address.startswith("fe80:")}


def test_what_was_learned_is_forgotten_and_what_was_asked_for_stays(netns_lab: Lab) -> None:
    """Neighbours, path MTUs, counters; an interface that is off is on. What runs, runs on."""
    lan, wan = netns_lab.bridge("lan", mtu=9000), netns_lab.bridge("wan")
    client, server = netns_lab.host("client", lan), netns_lab.host("server", wan)
    router = netns_lab.router("r", lan, wan)
    netns_lab.reset()  # nothing has been made yet
    netns_lab.build()
    running = server.popen(["sleep", "1000"])
    server.add_address("eth0", "10.0.1.99/24")
    for _ in range(2):
        for address in ("10.0.1.99", str(server.ip6)):
            assert ping(client, address, timeout=PATIENT)
        assert "fragmentation needed" in repr(ping(client, server, size=5000, timeout=PATIENT))
        assert ping(client, server, size=5000, timeout=PATIENT)  # in pieces: it has learned
        assert neighbours(client) == {"10.0.0.2", "fd00:10::2"}
        before = client["eth0"].state()
        assert before.rx_packets > 3
        assert before.tx_packets > 3
        router["eth1"].down()
        netns_lab.reset()
        assert [neighbours(host) for host in (client, server, router)] == [set(), set(), set()]
        now = client["eth0"].state()
        assert now.rx_packets < before.rx_packets
        assert now.tx_packets < before.tx_packets
        assert router["eth1"].state().up
    assert ping(client, "10.0.1.99", timeout=PATIENT)
    assert running.poll() is None


def test_bridges_and_their_ports_are_on_again(netns_lab: Lab) -> None:
    """Each is switched on that was off, and carries the first packet."""
    lan = netns_lab.bridge("lan")
    one, other = netns_lab.host("one", lan), netns_lab.host("other", lan)
    netns_lab.build()
    for name in (*lan.ports, lan.name):
        lan[name].down()
        assert not ping(one, other, timeout=0.1)
        netns_lab.reset()
        assert lan.interfaces[name].up
        assert ping(one, other, timeout=min(0.9, seconds(0.5)))


def test_what_bridges_have_learned_is_forgotten(netns_lab: Lab) -> None:
    """Where no host sends by itself, which IPv6 would, the table is empty."""
    lan = netns_lab.bridge("lan", subnet6=None)
    hosts = [netns_lab.host(name, lan) for name in ("one", "other")]
    for host in hosts:
        if host.namespace.broker.ipv6:
            host.sysctl("ipv6.conf.all.disable_ipv6", 1)
    assert ping(hosts[0], hosts[1], timeout=PATIENT)
    assert set(lan.learned.values()) == {"veth-one", "veth-other"}
    netns_lab.reset()
    assert lan.learned == {}
    assert hosts[0]["eth0"].state().tx_packets == 0
    assert ping(hosts[0], hosts[1], timeout=PATIENT)


def test_connections_are_forgotten(netns_lab: Lab) -> None:
    """A mapping that let packets in lets none in any more."""
    program("nft")
    lan, wan = netns_lab.bridge("lan", subnet6=None), netns_lab.bridge("wan", subnet6=None)
    laptop, server = netns_lab.host("laptop", lan), netns_lab.host("server", wan)
    home = netns_lab.router("home", lan, wan, nat=Nat(wan))
    udp = socket.SOCK_DGRAM
    with laptop.socket(type=udp) as inside, server.socket(type=udp) as outside:
        for sock in (inside, outside):
            sock.settimeout(PATIENT)
        outside.bind((server.ip, 7))
        inside.sendto(b"hello", (str(server.ip), 7))
        mapped = outside.recvfrom(10)[1]
        outside.sendto(b"back", mapped)
        assert inside.recv(10) == b"back"
        netns_lab.reset()
        assert home.nat is not None
        outside.sendto(b"again", mapped)
        inside.sendto(b"anew", (str(server.ip), 7))
        data, mapped = outside.recvfrom(10)
        assert data == b"anew"
        outside.sendto(b"end", mapped)
        assert inside.recv(10) == b"end"  # and nothing before it


@pytest.mark.netns(requires=["macvlan"])
def test_a_host_finds_itself_again(netns_lab: Lab) -> None:
    """Its loopback interface is the lab's, too; one that was added stays as it was left."""
    host = netns_lab.host("host", netns_lab.bridge("lan"))
    host.add_macvlan("eth0")
    for name in ("lo", "macvlan0"):
        host[name].down()
    netns_lab.reset()
    assert ping(host, "127.0.0.1", timeout=PATIENT)
    assert not host["macvlan0"].state().up
