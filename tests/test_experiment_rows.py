"""The experiment's topology, step by step as it was built by hand with ``ip``; then the same of `netns_pair`.

The note's commands run here in a host that stands for its computer, by the same program: a second opinion on
what this project builds by its own requests. What a namespace isolates is in `test_experiment_isolation.py`,
what the note reads in the kernel's sources in `test_experiment_sources.py` and `test_namespaces.py`.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fresh import own_interfaces
from pace import seconds

from pytest_netns import Bridge, Host, Lab, Pair, PairFactory, ping

pytestmark = pytest.mark.kernel

#: Seconds that nobody waits where all is well.
PATIENT = seconds(20)

needs_ip = pytest.mark.skipif(shutil.which("ip") is None, reason="needs the program ip: apt install iproute2")


@pytest.fixture
def computer(netns: Host) -> Host:
    """Stands for the note's computer; without IPv6, by whose own packets bridges would learn."""
    return without_ipv6(netns)


@pytest.fixture
def cities(computer: Host) -> Iterator[tuple[Host, Host]]:  # noqa: ARG001 - the first step
    """``ip netns add beijing``, ``ip netns add shanghai``."""
    with Lab() as lab:
        yield without_ipv6(lab.host("beijing")), without_ipv6(lab.host("shanghai"))


@needs_ip
class TestTopologyByHand:
    """The note's commands, one after the other."""

    def test_two_namespaces_exist_and_are_told_apart(self, computer: Host, cities: tuple[Host, Host]) -> None:
        """Each namespace has an id of its own, which is not the machine's."""
        ids = {place.namespace.id for place in (computer, *cities)}
        assert len(ids) == 3
        assert os.stat("/proc/self/ns/net").st_ino not in ids
        assert all(own_interfaces(city) == {"lo"} for city in cities)

    def test_a_new_bridge_has_no_ports(self, computer: Host) -> None:
        """A new bridge is down, has no ports, no STP, and the id 8000.000000000000; then it is up."""
        ip(computer, "link add br0 type bridge")
        state = computer["br0"].state()
        assert (state.kind, state.up, state.stp) == ("bridge", False, False)
        assert state.bridge_id == "8000.000000000000"
        assert Bridge("br0", computer.namespace).ports == {}
        ip(computer, "link set br0 up")
        assert computer["br0"].state().up
        ip(computer, "link set br0 type bridge stp_state 1")
        assert computer["br0"].state().stp

    def test_veth_comes_in_pairs(self, computer: Host) -> None:
        """Each end of a new pair names the other as its peer, and both are down."""
        make_pairs(computer)
        for one, other in (("eth0-b", "veth-b"), ("eth0-s", "veth-s")):
            near, far = computer[one].state(), computer[other].state()
            assert (near.kind, far.kind) == ("veth", "veth")
            assert (near.peer_index, far.peer_index) == (far.index, near.index)
            assert near.mac != far.mac
            assert f" {one}@{other}: " in ip(computer, f"link show {one}")
            for end in (near, far):
                assert (end.up, end.carrier, end.operstate) == (False, False, "DOWN")

    def test_an_end_has_no_carrier_while_its_peer_is_down(self, computer: Host) -> None:
        """``ip`` says NO-CARRIER of an end that is up while its peer is down, until that is up as well."""
        make_pairs(computer)
        computer["eth0-b"].up()
        state = computer["eth0-b"].state()
        assert (state.up, state.carrier) == (True, False)
        assert state.operstate in {"DOWN", "LOWERLAYERDOWN"}
        assert "NO-CARRIER" in ip(computer, "link show eth0-b")
        computer["veth-b"].up()
        for name in ("eth0-b", "veth-b"):
            state = computer[name].state()
            assert (state.up, state.carrier, state.operstate) == (True, True, "UP")
            assert "NO-CARRIER" not in ip(computer, f"link show {name}")

    def test_the_bridge_takes_the_lowest_mac_of_its_ports(self, computer: Host) -> None:
        """Ends that are added are ports of the bridge, whose id is always the lowest MAC among them."""
        ip(computer, "link add br0 type bridge")
        make_pairs(computer)
        ip(computer, "link set veth-b address 02:00:00:00:00:b0")
        ip(computer, "link set veth-s address 02:00:00:00:00:0a")
        bridge = Bridge("br0", computer.namespace)
        ids = []
        for command in ("veth-b master br0", "veth-s master br0", "veth-s nomaster"):
            ip(computer, f"link set {command}")
            ids.append((bridge.state.bridge_id, set(bridge.ports)))
        assert ids == [
            ("8000.0200000000b0", {"veth-b"}),
            ("8000.02000000000a", {"veth-b", "veth-s"}),
            ("8000.0200000000b0", {"veth-b"}),
        ]

    def test_each_namespace_sees_only_its_own_end(self, computer: Host, cities: tuple[Host, Host]) -> None:
        """An end that is moved into a namespace is seen there, and no longer where it was."""
        beijing, shanghai = cities
        before = socket.if_nameindex()
        make_bridge_with_ports(computer)
        hand_out(computer, cities)
        assert own_interfaces(beijing) == {"lo", "eth0-b"}
        assert own_interfaces(shanghai) == {"lo", "eth0-s"}
        assert own_interfaces(computer) == {"lo", "br0", "veth-b", "veth-s"}
        assert socket.if_nameindex() == before

    def test_an_address_makes_a_connected_route(self, computer: Host, cities: tuple[Host, Host]) -> None:
        """With its address each host has one route, to the network that it is connected to."""
        make_bridge_with_ports(computer)
        hand_out(computer, cities)
        assert [ip(city, "route show") for city in cities] == ["", ""]
        give_addresses(computer, cities)
        for city, end, address in zip(cities, ("eth0-b", "eth0-s"), ("10.0.0.1", "10.0.0.2"), strict=True):
            assert f"inet {address}/24 " in ip(city, f"-4 address show {end}")
            routes = ip(city, "route show").splitlines()
            expected = f"10.0.0.0/24 dev {end} proto kernel scope link src {address}"
            assert [" ".join(route.split()) for route in routes] == [expected]

    def test_the_cities_ping_each_other(self, computer: Host, cities: tuple[Host, Host]) -> None:
        """Beijing and shanghai answer each other: ICMP echo, ttl 64, sequence numbers 1 and 2, no loss."""
        make_bridge_with_ports(computer)
        hand_out(computer, cities)
        give_addresses(computer, cities)
        for source, target in (cities, cities[::-1]):
            result = ping(source, target, count=2, timeout=PATIENT)
            assert result
            assert (result.sent, result.received, result.loss) == (2, 2, 0)
            assert [(reply.src, reply.ttl, reply.payload.type, reply.payload.seq) for reply in result.replies] == [
                (target.ip, 64, 0, 1),
                (target.ip, 64, 0, 2),
            ]

    def test_a_ping_to_the_own_address_does_not_cross_the_bridge(
        self, computer: Host, cities: tuple[Host, Host]
    ) -> None:
        """The note's own listing pings each host's own address: by lo, and the bridge hears nothing."""
        beijing, shanghai = cities
        make_bridge_with_ports(computer)
        hand_out(computer, cities)
        give_addresses(computer, cities)
        bridge = Bridge("br0", computer.namespace)

        def heard() -> dict[str, tuple[int, int]]:
            return {name: (port.rx_packets, port.tx_packets) for name, port in bridge.ports.items()}

        assert heard() == {"veth-b": (0, 0), "veth-s": (0, 0)}
        for city in cities:
            over_lo = city.interfaces["lo"].rx_packets
            assert ping(city, city, count=2, timeout=PATIENT)
            assert city.interfaces["lo"].rx_packets == over_lo + 4  # two echoes, two replies
        assert heard() == {"veth-b": (0, 0), "veth-s": (0, 0)}
        assert bridge.learned == {}

        over_lo = beijing.interfaces["lo"].rx_packets
        assert ping(beijing, shanghai, count=2, timeout=PATIENT)
        assert beijing.interfaces["lo"].rx_packets == over_lo
        assert all(rx >= 3 and tx >= 3 for rx, tx in heard().values())  # two of ICMP, and ARP
        macs = beijing.interfaces["eth0-b"].mac, shanghai.interfaces["eth0-s"].mac
        assert bridge.learned == {macs[0]: "veth-b", macs[1]: "veth-s"}


class TestTopologyAsAFixture:
    """The same rows hold of what ``netns_pair`` hands out."""

    def test_the_pair_is_the_note_s_topology(self, netns_pair: Pair) -> None:
        """A bridge with two ports, STP off, its id the lower MAC; each port and its host's end are peers."""
        bridge = netns_pair.bridge
        assert bridge is not None
        assert own_interfaces(bridge) == {"lo", "br0", *bridge.ports}
        ports = list(bridge.ports.values())
        assert len(ports) == 2
        assert (bridge.state.kind, bridge.state.up, bridge.state.stp) == ("bridge", True, False)
        assert bridge.state.bridge_id == "8000." + min(port.mac for port in ports).replace(":", "")
        for host in netns_pair:
            end = host.interfaces["eth0"]
            (port,) = (port for port in ports if port.index == end.peer_index)
            assert port.peer_index == end.index
            assert end.up
            assert end.carrier
            assert end.operstate == "UP"

    def test_the_machine_sees_nothing_of_a_pair(self, netns_pair_factory: PairFactory) -> None:
        """Making a pair and using it leaves the machine's interfaces and routes as they are."""
        routes = Path("/proc/thread-self/net/route")
        before = socket.if_nameindex(), routes.read_text()
        with netns_pair_factory() as (beijing, shanghai):
            assert ping(beijing, shanghai, timeout=PATIENT)
            assert (socket.if_nameindex(), routes.read_text()) == before

    def test_the_pair_has_connected_routes_only(self, netns_pair: Pair) -> None:
        """Each host has a route to 10.0.0.0/24 by eth0, and none besides: no gateway, no way out."""
        for host in netns_pair:
            header, *routes = host.call(Path("/proc/net/route").read_text).splitlines()
            assert len(routes) == 1
            route = dict(zip(header.split(), routes[0].split(), strict=True))
            assert route["Iface"] == "eth0"
            assert [in_words(route[word]) for word in ("Destination", "Gateway", "Mask")] == [
                "10.0.0.0",
                "0.0.0.0",
                "255.255.255.0",
            ]

    @pytest.mark.parametrize("version", [4, 6])
    def test_the_pair_pings(self, netns_pair: Pair, version: int) -> None:
        """Echoes 1 and 2 come back with ttl 64, in both directions, over IPv4 and IPv6."""
        for source, target in (tuple(netns_pair), tuple(netns_pair)[::-1]):
            address = target.ip if version == 4 else target.ip6
            assert address is not None
            result = ping(source, address, count=2, timeout=PATIENT)
            assert result
            assert result.loss == 0
            assert [reply.payload.seq for reply in result.replies] == [1, 2]
            assert {reply.ttl if version == 4 else reply.hlim for reply in result.replies} == {64}


# What the tests do inside


def ip(host: Host, command: str) -> str:
    """Run ``ip`` in a host; return what it prints."""
    return str(host.run(["ip", *command.split()], check=True, capture_output=True, text=True).stdout)


def without_ipv6(host: Host) -> Host:
    for which in ("all", "default"):
        with suppress(FileNotFoundError):  # a kernel that has none
            host.sysctl(f"ipv6.conf.{which}.disable_ipv6", 1)
    return host


def make_pairs(computer: Host) -> None:
    ip(computer, "link add eth0-b type veth peer name veth-b")
    ip(computer, "link add eth0-s type veth peer name veth-s")


def make_bridge_with_ports(computer: Host) -> None:
    # A bridge that snoops joins the group of snoopers, 224.0.0.106 (RFC 4286), at some moment soon;
    # that is a packet of its own on every port.
    ip(computer, "link add br0 type bridge mcast_snooping 0")
    ip(computer, "link set br0 up")
    make_pairs(computer)
    for port in ("veth-b", "veth-s"):
        ip(computer, f"link set {port} master br0")
        ip(computer, f"link set {port} up")


def hand_out(computer: Host, cities: tuple[Host, Host]) -> None:
    """``ip link set eth0-b netns beijing`` and the like."""
    for city, end in zip(cities, ("eth0-b", "eth0-s"), strict=True):
        city.adopt(computer[end])


def give_addresses(computer: Host, cities: tuple[Host, Host]) -> None:
    for city, end, address in zip(cities, ("eth0-b", "eth0-s"), ("10.0.0.1/24", "10.0.0.2/24"), strict=True):
        city[end].up()
        city.add_address(end, address)
    for port in ("veth-b", "veth-s"):
        computer[port].state()  # the kernel works off that its carrier has come, and it forwards


def in_words(number: str) -> str:
    """An address as /proc/net/route writes it."""
    return socket.inet_ntoa(struct.pack("=I", int(number, 16)))
