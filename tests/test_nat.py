"""NAT on the real kernel: what each kind shows to probes, forwards, changes, and real programs through it."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pace import seconds
from programs import program
from scapy.layers.inet import ICMP, IP, TCP, UDP

from pytest_netns import (
    FeatureLacking,
    Host,
    KernelError,
    Lab,
    Namespace,
    Nat,
    NetnsError,
    Pair,
    PlanError,
    PortForward,
    Router,
    _features,
    _nat_load,
    _nftables,
    ping,
)
from pytest_netns._conntrack import flush_connections, forget_translated

pytestmark = [pytest.mark.kernel, pytest.mark.netns(requires=["nat"])]

_TRACKING = "table inet tracking { chain seen { type filter hook input priority 0; ct state new accept; }; }"
_COUNTING = (
    "table inet counted { chain known { type filter hook forward priority 10; ct state established counter; }; }"
)
Address = tuple[str, int]


class Endpoint:
    """A UDP socket in a host."""

    def __init__(self, host: Host, port: int) -> None:
        self._socket = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.close = self._socket.close
        self._socket.settimeout(seconds(20))
        self._socket.bind((host.ip, port))
        self.address: Address = self._socket.getsockname()

    def send(self, word: str, to: Address) -> None:
        self._socket.sendto(word.encode(), to)

    def heard(self, last: str) -> dict[str, Address]:
        """What came, and from where, up to a word that must come."""
        words: dict[str, Address] = {}
        while last not in words:
            word, address = self._socket.recvfrom(100)
            words[word.decode()] = address
        return words

    def seen_as(self, *servers: Endpoint) -> list[Address]:
        """The addresses that servers see it at, as STUN has it (RFC 8489)."""
        found = []
        for server in servers:
            self.send("who am I", server.address)
            found.append(server.heard("who am I")["who am I"])
        return found


class Net:
    """Two hosts inside, two outside, a router between them."""

    def __init__(self, lab: Lab, nat: Nat | str) -> None:
        self.lan, self.wan = lab.bridge("lan", "192.168.1.0/24"), lab.bridge("wan", "203.0.113.0/24")
        self.laptop, self.phone = lab.host("laptop", self.lan), lab.host("phone", self.lan)
        self.near, self.far = lab.host("near", self.wan), lab.host("far", self.wan)
        self.home: Router = lab.router("home", self.lan, self.wan, nat=nat)
        self.outside = "203.0.113.3"


At = Callable[[Host, int], Endpoint]


@pytest.fixture
def at() -> Iterator[At]:
    """Opens endpoints: ``at(host, port)``."""
    with contextlib.ExitStack() as stack:
        yield lambda host, port: stack.enter_context(contextlib.closing(Endpoint(host, port)))


#: Number of ports that three servers see a socket at, the second differing from the first in the port only.
SAME = {"endpoint-independent": [0, 0, 0], "address-dependent": [0, 0, 1], "address-and-port-dependent": [0, 1, 2]}
#: Who gets in to a socket that has sent to the first of them.
LET_IN = {
    "endpoint-independent": {"first", "other port", "other address"},
    "address-dependent": {"first", "other port"},
    "address-and-port-dependent": {"first"},
}
BEHAVIOURS = [
    *((Nat("wan", kind)) for kind in ("home", "full-cone", "symmetric", "carrier-grade")),
    Nat("wan", filtering="address-dependent"),
    Nat("wan", mapping="address-dependent"),
    Nat("wan", mapping="address-dependent", filtering="endpoint-independent"),
    Nat("wan", mapping="address-and-port-dependent", filtering="address-dependent", hairpin=False),
]


@pytest.mark.parametrize("nat", BEHAVIOURS, ids=str)
def test_probes_see_what_was_asked_for(netns_lab: Lab, at: At, nat: Nat) -> None:
    """Mapping, filtering, port preservation and hairpinning, as RFC 5780 finds them out: from the outside."""
    net = Net(netns_lab, nat)
    first, other_port, other_address = at(net.near, 1000), at(net.near, 1001), at(net.far, 1000)
    laptop, phone = at(net.laptop, 5000), at(net.phone, 5000)
    # Mapping, of two sockets with the same port; at first they send to different places, where one port would do.
    laptop.seen_as(first)
    phone.seen_as(other_address)
    for own in (laptop, phone, laptop):
        seen = own.seen_as(first, other_port, other_address)
        ports = [port for _, port in seen]
        assert {address for address, _ in seen} == {net.outside}
        assert [list(dict.fromkeys(ports)).index(port) for port in ports] == SAME[nat.mapping]
        assert (5000 in ports) == (nat.preserve_ports and own is laptop)
    # Filtering: what is kept out has been kept out when something comes that was sent after it.
    guest = at(net.laptop, 6000)
    (mapped,) = guest.seen_as(first)
    other_address.send("other address", mapped)
    other_port.send("other port", mapped)
    first.send("first", mapped)
    assert set(guest.heard("first")) == LET_IN[nat.filtering]
    # Hairpin: the phone is seen at its own address outside (RFC 4787, REQ-9).
    phone.send("hairpin", mapped)
    first.send("first", mapped)
    heard = guest.heard("first")
    turned = nat.hairpin and nat.filtering == "endpoint-independent"
    assert ("hairpin" in heard) == turned
    if turned:
        assert heard["hairpin"][0] == net.outside
        guest.send("and back", heard["hairpin"])
        assert phone.heard("and back")["and back"] == mapped


def test_inside_reaches_outside_and_not_the_other_way(netns_lab: Lab) -> None:
    """In both families; the router itself answers echoes, and nothing else from outside."""
    net = Net(netns_lab, "wan")
    for address in (net.near.ip, net.near.ip6, net.phone.ip, net.home.ip):
        assert address
        assert ping(net.laptop, address, timeout=seconds(20))
    assert ping(net.near, net.outside, timeout=seconds(20))
    refused = ping(net.near, net.laptop)
    assert not refused
    assert "no route" in repr(refused)
    assert not ping(net.near, str(net.laptop.ip6), timeout=0.1)
    net.near.run(["ip", "route", "add", "192.168.1.0/24", "via", net.outside], check=True)
    assert not ping(net.near, net.laptop, timeout=0.1)
    with net.near.socket() as asking, net.home.socket() as listening:
        listening.bind(("0.0.0.0", 22))
        listening.listen()
        asking.settimeout(0.1)
        with pytest.raises(TimeoutError):
            asking.connect((net.outside, 22))


def test_what_cannot_be_translated_stays_inside(netns_lab: Lab) -> None:
    """An answer that nobody asked for, an error about no connection; what is sent after them comes, translated."""
    net = Net(netns_lab, "wan")
    answer, first = (TCP(sport=4000, dport=80, flags=flags) for flags in ("SA", "S"))
    error = ICMP(type=3, code=3) / IP(src=net.near.ip, dst=net.laptop.ip) / UDP(sport=9, dport=9)
    kind, protocol = socket.SOCK_DGRAM, socket.htons(0x0800)
    with (
        net.near.socket(socket.AF_PACKET, kind, protocol) as tap,
        net.laptop.socket(socket.AF_INET, socket.SOCK_RAW, 255) as raw,
    ):
        tap.settimeout(seconds(20))
        for payload in (answer, error, first):
            raw.sendto(bytes(IP(src=net.laptop.ip, dst=net.near.ip) / payload), (net.near.ip, 0))
        packets = iter(lambda: IP(tap.recv(2000)), None)
        packet = next(each for each in packets if each.dst == net.near.ip)  # others are to groups, of the router (IGMP)
    assert TCP in packet, packet
    assert (packet.src, packet[TCP].flags) == (net.outside, "S")


def test_a_forwarded_port_is_at_the_outside_address_only(netns_lab: Lab, at: At) -> None:
    """Not at the router's address inside, for whoever knows a way there; by IPv6 TCP is refused, so nobody waits."""
    net = Net(netns_lab, "wan")
    net.home.forward_port(5353, net.laptop, 5000, protocol="udp")
    net.home.forward_port(8080, net.laptop, 80)
    net.near.run(["ip", "route", "add", "192.168.1.0/24", "via", net.outside], check=True)
    laptop, near = at(net.laptop, 5000), at(net.near, 5000)
    near.send("inside", (str(net.home.ip), 5353))
    near.send("outside", (net.outside, 5353))
    assert set(laptop.heard("outside")) == {"outside"}
    found = net.near.call(socket.getaddrinfo, "home", 8080, type=socket.SOCK_STREAM)
    sixes = [address for family, *_, address in found if family == socket.AF_INET6]
    assert len(sixes) == 2
    for address in sixes:
        with net.near.socket(socket.AF_INET6) as asking:
            asking.settimeout(seconds(20))
            with pytest.raises(ConnectionRefusedError):
                asking.connect(address)
    with net.near.socket(socket.AF_INET6) as asking:  # another port: as with IPv4
        asking.settimeout(0.1)
        with pytest.raises(TimeoutError):
            asking.connect((sixes[0][0], 8081))
    with net.laptop.socket() as listener:
        listener.bind((net.laptop.ip, 80))
        listener.listen()
        net.near.call(lambda: socket.create_connection(("home", 8080), timeout=seconds(20)).close())


def homes(lab: Lab, nats: tuple[str, str], carrier: str | None = None) -> tuple[Host, Host, Host]:
    """Two homes with the same subnet and the same addresses, behind a carrier or not; and a server."""
    wan = lab.bridge("wan", "203.0.113.0/24")
    server = lab.host("server", wan)
    street = wan
    if carrier:
        street = lab.bridge("street", "100.64.0.0/10")
        lab.router("carrier", street, wan, nat=Nat(wan, carrier))
    hosts = []
    for number, kind in enumerate(nats):
        lan = lab.bridge(f"lan{number}", "192.168.1.0/24")
        hosts.append(lab.host(f"laptop{number}", lan))
        lab.router(f"home{number}", lan, street, nat=Nat(street, kind))
    return hosts[0], hosts[1], server


@pytest.mark.parametrize("carrier", [None, "carrier-grade"])
@pytest.mark.parametrize(("nats", "meet"), [(("home", "home"), True), (("home", "symmetric"), False)])
def test_two_hosts_meet_through_their_routers(
    netns_lab: Lab, at: At, nats: tuple[str, str], carrier: str | None, meet: bool
) -> None:
    """UDP hole punching (RFC 5128, 3.3): homes meet, also over a carrier's NAT that turns their packets round."""
    one, other, server = homes(netns_lab, nats, carrier)
    assert one.ip == other.ip == "192.168.1.1"
    middle, left, right = at(server, 3478), at(one, 5000), at(other, 5000)
    (left_seen,), (right_seen,) = left.seen_as(middle), right.seen_as(middle)
    left.send("one", right_seen)
    right.send("two", left_seen)
    left.send("three", right_seen)
    middle.send("end", right_seen)
    middle.send("end", left_seen)
    heard = left.heard("end").keys() | right.heard("end").keys()
    assert heard >= {"two", "three"} if meet else heard == {"end"}


def test_the_same_address_behind_another_router_is_another_host(netns_lab: Lab) -> None:
    """A ping is not content with the answer of whoever has the address on this side; names lead elsewhere."""
    one, other, server = homes(netns_lab, ("home", "home"))
    with pytest.raises(ValueError, match=r"there 192\.168\.1\.1 belongs to the source itself"):
        ping(one, other)
    assert one.resolve("laptop1") == other.ip6
    assert one.resolve("laptop0") == netns_lab["home0"].resolve("laptop0") == one.ip
    assert one.run(["getent", "ahosts", "laptop1"], check=True, capture_output=True, text=True).stdout.split()[0] == (
        other.ip6
    )
    assert ping(netns_lab["home1"], other, timeout=seconds(20))
    assert not ping(server, one)


def test_errors_about_packets_find_their_way_back(netns_lab: Lab) -> None:
    """Of routers beyond the one that translates: time exceeded, and too big (RFC 5508, 4)."""
    net = Net(netns_lab, "wan")
    narrow = netns_lab.bridge("narrow", "198.51.100.0/24", mtu=1400)
    netns_lab.router("beyond", net.wan, narrow)
    target = netns_lab.host("target", narrow)
    assert "from 203.0.113.4: time exceeded" in repr(ping(net.laptop, target, ttl=2, timeout=seconds(20)))
    assert "fragmentation needed" in repr(ping(net.laptop, target, size=1450, timeout=seconds(20)))
    assert ping(net.laptop, target, size=1450, timeout=seconds(20))


@pytest.mark.once
def test_a_web_server_is_asked_over_two_nats(netns_lab: Lab, tmp_path: Path) -> None:
    """Two laptops with one address each ask the same nginx by curl; it sees the carrier."""
    one, other, server = homes(netns_lab, ("home", "home"), "carrier-grade")
    serve(server, tmp_path)
    for laptop in (one, other):
        assert fetch(laptop, f"{server.ip}") == "203.0.113.2"
    assert ping(one, server, timeout=seconds(20)).replies[0].ttl == 62


def serve(host: Host, directory: Path, port: int = 80) -> None:
    """Have nginx tell its clients the address that it sees; its first process ends when it listens."""
    (directory / "nginx.conf").write_text(f"""
        pid {directory}/nginx.pid;
        error_log {directory}/error.log;
        events {{}}
        http {{
            access_log off;
            client_body_temp_path {directory};
            proxy_temp_path {directory};
            fastcgi_temp_path {directory};
            uwsgi_temp_path {directory};
            scgi_temp_path {directory};
            server {{ listen {port}; listen [::]:{port}; location / {{ return 200 $remote_addr; }} }}
        }}
    """)
    host.run([program("nginx"), "-p", str(directory), "-c", str(directory / "nginx.conf")], check=True, timeout=20)


def fetch(host: Host, place: str) -> str:
    command = [program("curl"), "-fsS", "--max-time", "20", f"http://{place}/"]
    return str(host.run(command, check=True, capture_output=True, text=True).stdout)


@st.composite
def descriptions(draw: st.DrawFn) -> dict[str, Any]:
    """Bridges with a host on each, joined by routers that translate or not, in a row or in circles."""
    bridges = [f"b{number}" for number in range(draw(st.integers(2, 4)))]
    routers = {}
    for number in range(draw(st.integers(1, 3))):
        on = draw(st.lists(st.sampled_from(bridges), min_size=2, max_size=3, unique=True))
        outside = draw(st.sampled_from([None, *on]))
        kind = draw(st.sampled_from(["home", "full-cone", "symmetric", "carrier-grade"]))
        nat = {} if outside is None else {"nat": {"outside": outside, "kind": kind}}
        routers[f"r{number}"] = {"bridges": on, **nat}
    hosts = {f"h{number}": {"bridges": [bridge]} for number, bridge in enumerate(bridges)}
    return {"bridges": {bridge: {"subnet6": False} for bridge in bridges}, "hosts": hosts, "routers": routers}


def reached(data: dict[str, Any], bridge: str) -> set[str]:
    """The bridges that a packet gets to: in at any interface of a router but the one that is outside."""
    found, waiting = {bridge}, [bridge]
    while waiting:
        here = waiting.pop()
        for router in data["routers"].values():
            if here in router["bridges"] and router.get("nat", {}).get("outside") != here:
                new = set(router["bridges"]) - found
                found |= new
                waiting += new
    return found


@settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(descriptions())
def test_any_lab_with_nat_is_connected_as_its_plan_says(data: dict[str, Any]) -> None:
    """Each host reaches another exactly if it is not behind a router that translates, however many are on the way."""
    with Lab.from_dict(data) as lab:
        for source, target in itertools.permutations(data["hosts"], 2):
            near, far = (data["hosts"][name]["bridges"][0] for name in (source, target))
            expected = far in reached(data, near)
            assert bool(ping(lab[source], lab[target], timeout=seconds(20) if expected else 0.1)) == expected


def test_outside_meets_a_router_at_its_outside_address(netns_lab: Lab) -> None:
    """By handle and by name, by programs and as name server; while it translates, no longer."""
    net = Net(netns_lab, "wan")
    farther = netns_lab.bridge("farther")
    netns_lab.router("exchange", net.wan, farther)
    remote = netns_lab.host("remote", farther)

    def found(host: Host) -> set[str]:
        host.use_nameserver(net.home)
        results = [ping(host, net.home, timeout=seconds(20)), ping(host, "home", timeout=seconds(20))]
        assert all(results)
        asked = host.run(["getent", "ahostsv4", "home"], capture_output=True, text=True, check=True).stdout
        server = host.call(Path("/etc/resolv.conf").read_text).split()[1]
        return {asked.split()[0], server, host.resolve("home"), *(result.address for result in results)}

    assert found(remote) == found(net.near) == {net.outside}
    assert found(net.laptop) == {net.home.ip}
    assert not ping(remote, net.laptop, timeout=0.01)
    net.home.set_nat(None)
    assert remote.resolve("home") == net.home.ip
    assert ping(remote, net.home, timeout=seconds(20)).address == net.home.ip


def test_tracked_connections_are_forgotten(netns_pair: Pair) -> None:
    """All of a namespace, at once; those of others are left alone, and where there are none nothing is wrong."""
    beijing, shanghai = netns_pair
    flush_connections(beijing.namespace)
    for host in netns_pair:
        host.run([program("nft"), _TRACKING], check=True)
    assert ping(beijing, shanghai)
    counts = [host.sysctl("netfilter.nf_conntrack_count") for host in netns_pair]
    flush_connections(shanghai.namespace)
    assert counts == ["1", "1"]
    assert [host.sysctl("netfilter.nf_conntrack_count") for host in netns_pair] == ["1", "0"]


class TestForwards:
    def test_a_port_leads_to_a_host(self, netns_lab: Lab, tmp_path: Path) -> None:
        """From outside and, by hairpin, from inside; IPv6 to the host's own address; ended at once, others stay."""
        net = Net(netns_lab, "wan")
        net.home.forward_port(80, net.laptop, 8080)
        serve(net.laptop, tmp_path, 8080)
        assert net.home.port_forwards == (PortForward(80, "laptop", 8080, "tcp"),)
        assert fetch(net.near, net.outside) == net.near.ip
        assert fetch(net.near, f"[{net.laptop.ip6}]:8080") == net.near.ip6
        assert fetch(net.phone, net.outside) == net.outside
        net.home.forward_port(81, "laptop", 8080)
        net.home.forward_port(80, None)
        assert fetch(net.near, f"{net.outside}:81") == net.near.ip
        with net.near.socket() as asking:
            asking.settimeout(0.1)
            with pytest.raises(TimeoutError):
                asking.connect((net.outside, 80))

    def test_a_change_leaves_connections_alone(self, netns_lab: Lab, at: At) -> None:
        """Mappings of others stay; who sends from a forwarded port is seen at it; the router has ports of its own."""
        net = Net(netns_lab, Nat("wan", "carrier-grade"))
        server, laptop, phone = at(net.near, 1000), at(net.laptop, 5000), at(net.phone, 5000)
        (before,) = laptop.seen_as(server)
        net.home.forward_port(51820, net.phone, 5000, protocol="udp")
        net.home.forward_port(53, net.home, protocol="udp")
        server.send("hello", (net.outside, 51820))
        assert phone.heard("hello") == {"hello": server.address}
        assert phone.seen_as(at(net.far, 7)) == [(net.outside, 51820)]
        own = at(net.home, 53)
        server.send("name?", (net.outside, 53))
        assert own.heard("name?") == {"name?": server.address}
        server.send("still there", before)
        laptop.heard("still there")
        assert laptop.seen_as(server) == [before]

    @pytest.mark.parametrize(
        "nat",
        [
            *(Nat("wan", kind) for kind in ("home", "full-cone", "symmetric", "carrier-grade")),
            Nat("wan", mapping="address-dependent", filtering="address-dependent"),
        ],
        ids=str,
    )
    def test_a_port_is_taken_from_who_has_it_outside(self, netns_lab: Lab, at: At, nat: Nat) -> None:
        """Who does gets another with the next packet; no packet is lost, and mappings of all others stay."""
        net = Net(netns_lab, nat)
        servers, laptop, phone = (at(net.near, 1000), at(net.far, 1000)), at(net.laptop, 5000), at(net.phone, 5000)
        other = at(net.phone, 5001)
        assert ping(net.phone, net.near, timeout=seconds(20))
        before = other.seen_as(servers[0])
        ((_, port),) = phone.seen_as(servers[0])
        net.home.forward_port(port, net.laptop, 5000, protocol="udp")
        assert laptop.seen_as(*servers) == [(net.outside, port)] * 2
        assert (net.outside, port) not in phone.seen_as(*servers)
        for server in servers:
            server.send("by the forward", (net.outside, port))
            laptop.heard("by the forward")
        net.home.forward_port(port, None, protocol="udp")
        assert laptop.seen_as(*servers) == [(net.outside, port)] * 2
        assert (net.outside, port) not in phone.seen_as(*servers)
        assert other.seen_as(servers[0]) == before

    def test_a_port_is_taken_for_good(self, netns_lab: Lab, at: At, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also from who sends by the old connection while it is being taken."""
        net = Net(netns_lab, Nat("wan", "carrier-grade"))
        server, laptop, phone = at(net.near, 1000), at(net.laptop, 5000), at(net.phone, 5000)
        ((_, port),) = phone.seen_as(server)

        def forget(namespace: Namespace, leads: Any) -> None:
            phone.send("meanwhile", server.address)
            assert server.heard("meanwhile")["meanwhile"] == (net.outside, port)
            forget_translated(namespace, leads)

        monkeypatch.setattr(_nat_load, "forget_translated", forget)
        net.home.forward_port(port, net.laptop, 5000, protocol="udp")
        assert laptop.seen_as(server) == [(net.outside, port)]
        assert (net.outside, port) not in phone.seen_as(server)

    def test_a_port_is_not_taken_from_whom_it_leads_to(self, netns_lab: Lab, at: At) -> None:
        """The host's mapping and connections stay, before, while and after it is forwarded."""
        net = Net(netns_lab, Nat("wan", "carrier-grade"))
        servers, laptop = [at(net.near, 1000), at(net.far, 1000), at(net.far, 1001)], at(net.laptop, 5000)
        before = laptop.seen_as(servers[0])
        net.home.forward_port(before[0][1], net.laptop, 5000, protocol="udp")
        net.home.forward_port(before[0][1], None, protocol="udp")
        assert laptop.seen_as(servers[1]) == before
        servers[0].send("at", before[0])
        laptop.heard("at")
        net.home.run([program("nft"), _COUNTING], check=True)
        net.home.forward_port(before[0][1], net.laptop, 5000, protocol="udp")
        laptop.seen_as(servers[0])
        counted = net.home.run([program("nft"), "list", "table", "inet", "counted"], capture_output=True, text=True)
        assert "packets 1 " in counted.stdout
        net.home.forward_port(before[0][1], None, protocol="udp")
        assert laptop.seen_as(*servers) == before * 3
        net.home.forward_port(7000, net.laptop, 5001, protocol="udp")
        second = at(net.laptop, 5001)
        assert second.seen_as(servers[0]) == [(net.outside, 7000)]
        net.home.forward_port(7000, None, protocol="udp")
        assert second.seen_as(servers[1]) == [(net.outside, 7000)]

    def test_what_was_taken_does_not_come_back(self, netns_lab: Lab, at: At) -> None:
        """When the forward ends, nobody gets in by the mapping that was there before it."""
        net = Net(netns_lab, Nat("wan", "full-cone"))
        server, phone = at(net.near, 1000), at(net.phone, 5000)
        assert phone.seen_as(server) == [(net.outside, 5000)]
        net.home.forward_port(5000, net.laptop, protocol="udp")
        net.home.forward_port(5000, None, protocol="udp")
        server.send("by the old one", (net.outside, 5000))
        ((_, port),) = phone.seen_as(server)
        server.send("by the new one", (net.outside, port))
        assert port != 5000
        assert list(phone.heard("by the new one")) == ["by the new one"]

    def test_every_outside_address_leads_inside(self, netns_lab: Lab, at: At) -> None:
        """From outside and, by hairpin, from inside; one that is added leaves mappings alone."""
        net = Net(netns_lab, Nat("wan", "carrier-grade"))
        netns_lab.connect(net.home, net.wan)
        net.home.forward_port(7000, net.laptop, protocol="udp")
        server, laptop, phone = at(net.near, 1000), at(net.laptop, 7000), at(net.phone, 5000)
        (before,) = phone.seen_as(server)
        net.home.add_address("eth1", "203.0.113.99/24")
        for number, address in enumerate((net.outside, "203.0.113.4", "203.0.113.99")):
            for host in (net.far, net.phone):
                at(host, 6000 + number).send(f"{host.name} to {address}", (address, 7000))
                laptop.heard(f"{host.name} to {address}")
        server.send("still there", before)
        phone.heard("still there")
        net.home.remove_address("eth1", "203.0.113.99")
        phone.send("to nobody", ("203.0.113.99", 7000))
        phone.send("to somebody", (net.outside, 7000))
        assert list(laptop.heard("to somebody")) == ["to somebody"]


class TestChanges:
    def test_another_nat_from_one_packet_to_the_next(self, netns_lab: Lab, at: At) -> None:
        """Each kind holds when the call returns, and nothing of the one before; without NAT, outside has routes."""
        net = Net(netns_lab, "wan")
        servers, laptop = (at(net.near, 1000), at(net.far, 1000)), at(net.laptop, 5000)
        assert laptop.seen_as(*servers) == [(net.outside, 5000)] * 2
        net.home.set_nat(Nat(net.wan, "symmetric"))
        assert net.home.nat == Nat("wan", "symmetric")
        first, second = laptop.seen_as(*servers)
        assert first != second
        net.home.set_nat(Nat(net.wan, "full-cone"))
        assert laptop.seen_as(*servers) == [(net.outside, 5000)] * 2
        net.home.set_nat(None)
        assert laptop.seen_as(*servers) == [laptop.address] * 2
        assert ping(net.near, net.laptop, timeout=seconds(20))
        net.home.set_nat(net.wan)
        assert not ping(net.near, net.laptop)
        assert laptop.seen_as(*servers) == [(net.outside, 5000)] * 2

    def test_what_is_flushed_is_forgotten(self, netns_lab: Lab, at: At, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody gets in by a mapping of before, the next packet gets one anew, and none in between; forwards stay."""
        net = Net(netns_lab, Nat("wan", "carrier-grade"))
        net.home.forward_port(7000, net.phone, protocol="udp")
        server, laptop, phone = at(net.near, 1000), at(net.laptop, 5000), at(net.phone, 7000)
        (before,) = laptop.seen_as(server)

        def flush(namespace: Namespace) -> None:
            laptop.send("meanwhile", server.address)
            flush_connections(namespace)

        monkeypatch.setattr(_nat_load, "flush_connections", flush)
        net.home.flush_nat()
        server.send("too late", before)
        laptop.send("who am I", server.address)
        heard = server.heard("who am I")
        assert list(heard) == ["who am I"]
        after = heard["who am I"]
        assert after != before
        server.send("now", after)
        assert list(laptop.heard("now")) == ["now"]
        server.send("forwarded", (net.outside, 7000))
        phone.heard("forwarded")

    def test_a_bridge_that_comes_later(self, netns_lab: Lab) -> None:
        """A router that exists gets NAT when it is connected to what is outside; it may lose that again."""
        lan = netns_lab.bridge("lan")
        laptop, home = netns_lab.host("laptop", lan), netns_lab.router("home", lan)
        assert ping(laptop, home)
        wan = netns_lab.bridge("wan")
        server = netns_lab.host("server", wan)
        with pytest.raises(PlanError, match="home is not on it; it is on lan"):
            home.set_nat(wan)
        netns_lab.connect(home, wan)
        home.set_nat(wan)
        assert ping(laptop, server, timeout=seconds(20))
        assert not ping(server, laptop)
        home.forward_port(80, laptop)
        home.flush_nat()
        netns_lab.reset()
        netns_lab.remove(wan)
        assert (home.nat, home.port_forwards) == (None, ())
        assert home.run([program("nft"), "list", "tables"], check=True, capture_output=True).stdout == b""
        with pytest.raises(PlanError, match="home has no NAT to flush"):
            home.flush_nat()

    def test_the_cable_outside_leads_elsewhere(self, netns_lab: Lab, at: At) -> None:
        """From one provider to another: the router translates there, and is known by its new address."""
        net = Net(netns_lab, "wan")
        mobile = netns_lab.bridge("mobile", "198.51.100.0/24")
        netns_lab.router("exchange", net.wan, mobile)
        server, laptop = at(net.near, 1000), at(net.laptop, 5000)
        assert laptop.seen_as(server) == [(net.outside, 5000)]
        net.home["eth1"].replug(mobile)
        assert net.home.nat == Nat(mobile)
        assert laptop.seen_as(server) == [("198.51.100.2", 5000)]
        assert not ping(net.near, net.laptop)


class TestWhatIsLacking:
    def test_without_nft_it_is_said_what_to_type(self, netns_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before anything of that router is made; routers without NAT do not need it."""
        lan, wan = netns_lab.bridge("lan"), netns_lab.bridge("wan")
        monkeypatch.setattr("shutil.which", lambda *_, **__: None)
        words = r"nft, which is not installed. Type: sudo apt-get install nftables"
        with pytest.raises(FeatureLacking, match=words):
            netns_lab.router("home", lan, wan, nat=wan)
        assert not netns_lab.hosts
        home = netns_lab.router("home", lan, wan)
        with pytest.raises(FeatureLacking, match=words):
            home.set_nat(wan)
        assert home.nat is None
        monkeypatch.setattr(_features, "_tried", {})
        with pytest.raises(FeatureLacking, match=rf"nat is lacking: .*{words}"):
            netns_lab.require("nat")

    @pytest.mark.parametrize("said", ["Error: Could not process rule: No such file or directory", ""])
    def test_what_the_kernel_lacks_is_told_from_what_is_wrong(
        self, netns_lab: Lab, monkeypatch: pytest.MonkeyPatch, said: str
    ) -> None:
        """A part of nftables that is not there skips the test; rules that are refused where others are not, do not."""
        net = Net(netns_lab, "wan")
        monkeypatch.setattr(_features, "_tried", {})
        monkeypatch.setattr(_nftables, "run_nft", lambda *_: said)
        monkeypatch.setattr(_nat_load, "run_nft", lambda *_: "Error: syntax error")
        kind, words = (
            (FeatureLacking, "home: nat is lacking: .*modprobe -a nf_tables nft_masq")
            if said
            else (NetnsError, "home: nft refused the rules of its NAT: Error: syntax error")
        )
        with pytest.raises(NetnsError, match=words) as caught:
            net.home.interfaces  # noqa: B018
        assert type(caught.value) is kind

    def test_a_lab_that_could_not_be_made_leaves_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """And is made once nft does its work."""
        with Lab() as lab:
            net = Net(lab, "wan")
            before = len(os.listdir("/proc/self/fd"))
            with monkeypatch.context() as patched:
                patched.setattr(_nftables, "find_nft", lambda: "/bin/false")
                patched.setattr(_nat_load, "lacking", lambda _: [])
                with pytest.raises(NetnsError, match="home: nft refused the rules of its NAT"):
                    lab.build()
            assert len(os.listdir("/proc/self/fd")) == before
            assert ping(net.laptop, net.near, timeout=seconds(20))

    def test_connections_that_stay_keep_their_nat(
        self, netns_lab: Lab, at: At, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the kernel does not let connections go, the NAT of before holds, and the router is open."""
        net = Net(netns_lab, "wan")
        servers, laptop = (at(net.near, 1000), at(net.far, 1000)), at(net.laptop, 5000)
        laptop.seen_as(servers[0])

        def refuse(_: object) -> None:
            raise KernelError(errno.EPERM, "refused")

        monkeypatch.setattr(_nat_load, "flush_connections", refuse)
        with pytest.raises(KernelError, match="refused"):
            net.home.set_nat(Nat("wan", "symmetric"))
        assert net.home.nat == Nat("wan")
        assert laptop.seen_as(*servers) == [(net.outside, 5000)] * 2

    def test_what_nft_refuses_leaves_all_as_it_was(
        self, netns_lab: Lab, at: At, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The message has nft's words; the NAT of before still holds, with its mappings."""
        net = Net(netns_lab, "wan")
        server, laptop = at(net.near, 1000), at(net.laptop, 5000)
        laptop.seen_as(server)
        monkeypatch.setattr(_nat_load, "CLOSED", "add rule inet netns nowhere drop\n")
        with pytest.raises(NetnsError, match=r"home: nft refused the rules of its NAT: .*No such file or directory"):
            net.home.set_nat(Nat("wan", "symmetric"))
        assert net.home.nat == Nat("wan")
        server.send("still there", (net.outside, 5000))
        laptop.heard("still there")


def test_a_refused_change_keeps_the_rules(netns_lab: Lab) -> None:
    """Where the kernel refuses a route of it, nobody gets in meanwhile; asked for again, it is made."""
    lan, wan = netns_lab.bridge("lan", "192.168.1.0/24", None), netns_lab.bridge("wan", "203.0.113.0/24", None)
    laptop, server, other = netns_lab.host("laptop", lan), netns_lab.host("server", wan), netns_lab.host("other", wan)
    home = netns_lab.router("home", lan, wan, nat=wan)
    assert isinstance(home, Router)
    assert ping(laptop, server)
    other.run(["ip", "link", "set", "eth0", "down"], check=True)  # of which the lab does not know
    with pytest.raises(KernelError):
        home.set_nat(None)
    assert home.nat is not None
    assert not ping(server, laptop.ip or "", timeout=0.2)
    other["eth0"].up()
    home.set_nat(None)
    assert ping(server, laptop)


def test_connections_are_remembered_as_long_as_mappings(netns_lab: Lab) -> None:
    """So that an answer that comes late gets in (RFC 4787, REQ-5); some kernels keep that from user namespaces."""
    lan, wan = netns_lab.bridge("lan"), netns_lab.bridge("wan")
    home = netns_lab.router("home", lan, wan, nat=wan)
    home.namespace.fileno()
    try:
        remembered = home.sysctl("netfilter.nf_conntrack_udp_timeout")
    except FileNotFoundError:
        pytest.skip("this kernel shows its time-outs to root only")
    assert remembered == "300"
