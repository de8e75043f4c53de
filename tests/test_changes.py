"""What a lab is made of changes while it runs; each change is there when the call returns, for everybody."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest
from fresh import own_interfaces
from pace import seconds
from programs import program
from test_labs import _Requests

from pytest_netns import Host, KernelError, Lab, PlanError, ping

pytestmark = pytest.mark.kernel

#: Seconds that nobody waits where all is well; ARP that is asked anew takes one.
PATIENT, AT_ONCE = seconds(20), seconds(0.9)


def reached(source: Host, target: Host) -> None:
    """The first packet gets through, in both families, and nothing waits for a second one."""
    for address in (target.ip, target.ip6):
        assert address is not None
        result = ping(source, address, timeout=PATIENT)
        assert result
        assert result.max is not None
        assert result.max < AT_ONCE, result


def shown(host: Host) -> list[str]:
    """The addresses that the kernel has, but for those that every interface has."""
    return [text for text in host["eth0"].state().addresses if not text.startswith("fe80")]


class TestReplugging:
    def test_a_station_roams(self, netns_lab: Lab) -> None:
        """Another network, the same card: hosts, routers, names and the drawing follow, and the way back leads back."""
        home, cafe = netns_lab.bridge("home"), netns_lab.bridge("cafe")
        phone, desk, server = (
            netns_lab.host("phone", home),
            netns_lab.host("desk", home),
            netns_lab.host("server", cafe),
        )
        netns_lab.router("r", home, cafe)
        reached(phone, server)
        reached(desk, phone)
        card = phone["eth0"]
        before = card.state()
        for number, (bridge, other) in enumerate([(cafe, home), (home, cafe), (cafe, home)]):
            card.replug(bridge)
            now = card.state()
            assert (now.index, now.mac, now.operstate) == (before.index, before.mac, "UP")
            assert shown(phone) == [f"{phone.ip}/24", f"{phone.ip6}/64"]
            assert str(phone.ip).startswith("10.0.1." if bridge is cafe else "10.0.0.")
            assert "veth-phone" in bridge.ports
            assert "veth-phone" not in other.ports
            for host in (desk, server):
                reached(phone, host)
                reached(host, phone)
                assert host.call(socket.gethostbyname, "phone") == phone.ip
            assert f"phone eth0 {phone.ip}/24" in str(netns_lab)
            assert ping(phone, server, timeout=PATIENT).replies[0].ttl == (64 if bridge is cafe else 63), number
        card.down()
        assert not ping(server, phone, timeout=0.01)
        card.up()
        reached(desk, phone)

    def test_the_address_stays_where_the_network_is_the_same(self, netns_lab: Lab) -> None:
        """Two access points of one network: whoever is at the other one is found at its first packet."""
        near, far = (netns_lab.bridge(name, "10.9.0.0/24", "fd00:9::/64") for name in ("near", "far"))
        phone = netns_lab.host("phone", near, ip="10.9.0.7", ip6="fd00:9::7")
        here, there = (netns_lab.host("gw", near, ip="10.9.0.1"), netns_lab.host("gw2", far, ip="10.9.0.1"))
        reached(phone, here)
        phone["eth0"].replug(far, ip="10.9.0.7", ip6="fd00:9::7")
        assert (phone.ip, phone.ip6) == ("10.9.0.7", "fd00:9::7")
        reached(there, phone)
        assert ping(phone, "10.9.0.1", timeout=PATIENT).max < AT_ONCE  # type: ignore[operator]
        assert not ping(here, phone, timeout=0.01)

    def test_without_an_address_for_those_who_ask_a_server(self, netns_lab: Lab) -> None:
        """Then its name is nobody's, and the cable in a bridge where it has a neighbour of its own name is fine."""
        lan, wan = netns_lab.bridge("lan"), netns_lab.bridge("wan")
        phone, other = netns_lab.host("phone", lan, wan), netns_lab.host("other", wan)
        phone["eth0"].replug(wan, ip=None, ip6=None)
        assert shown(phone) == []
        assert phone.ip == "10.0.1.1"  # of eth1
        assert {name.rpartition("-")[0] for name in wan.ports} == {"veth"}
        assert len(wan.ports) == 3
        phone.add_address("eth0", "10.0.1.77/24")
        assert ping(other, "10.0.1.77", timeout=PATIENT)

    def test_what_cannot_be_is_refused(self, netns_lab: Lab) -> None:
        """By name, and nothing changes."""
        lan, wan = netns_lab.bridge("lan"), netns_lab.bridge("wan", subnet6=None)
        one, other = netns_lab.host("one", lan), netns_lab.host("other", wan)
        netns_lab.link(one, other)
        before = str(netns_lab)
        elsewhere = Lab().bridge("wan")
        wrong: tuple[tuple[Callable[[], Any], str], ...] = (
            (lambda: one["eth0"].replug(elsewhere), "belongs to another lab"),
            (lambda: one["eth0"].replug(other), "expected an interface of a host, and a bridge"),
            (lambda: lan["veth-one"].replug(wan), "expected an interface of a host"),
            (lambda: one["lo"].replug(wan), "lo cannot be replugged"),
            (lambda: one["eth1"].replug(wan), "one end of a direct link"),
            (lambda: one["eth0"].replug(wan, ip="10.0.1.1"), "other has this address on wan already"),
            (lambda: one["eth0"].replug(wan, ip="10.0.0.1"), "expected an address of 10.0.1.0/24"),
            (lambda: one["eth0"].replug(wan, ip6="fd00::1"), "wan has no IPv6 network"),
            (lambda: one["eth0"].set_mtu(1000), "IPv6 needs 1280"),
            (lambda: one["eth0"].set_mtu("x"), "mtu 'x'"),  # type: ignore[arg-type]
            (lambda: one.remove_address("eth0", "10.0.0.9"), "eth0 of one has been given 10.0.0.1/24"),
            (lambda: one.remove_address("lo", "10.0.0.9"), "has not been given it"),
            (lambda: one.set_route("nowhere", other), "route to 'nowhere': expected 'default' or a network"),
            (lambda: one.set_route("default", "8.8.8.8"), "no interface in a network of this address"),
            (lambda: one.set_route("192.0.2.0/24", "fd00:10::2"), "same IP version"),
            (lambda: one.set_route("default", "gw"), "expected a host of the lab"),
            (lambda: one.set_route("default", one), "no common bridge"),
            (lambda: one.set_route("10.0.2.0/24", other), "one is in this network itself, by eth1"),
            (lambda: one.set_route("fd00:10::/64", None), "one is in this network itself, by eth0"),
        )
        for use, message in wrong:
            with pytest.raises(PlanError, match=message):
                use()
            assert str(netns_lab) == before
        one["eth0"].down()
        with pytest.raises(PlanError, match="eth0 is switched off"):
            one["eth0"].replug(wan)


class TestAddresses:
    def test_an_address_is_another_host_s_now(self, netns_lab: Lab) -> None:
        """Taken from one and given to another, it is met there at the first packet; and so is its name."""
        lan = netns_lab.bridge("lan")
        client, first, second = (netns_lab.host(name, lan) for name in ("client", "first", "second"))
        holders = [first, second]
        first.add_address("eth0", "10.0.0.100/24")
        first.add_address("eth0", "fd00:10::100/64")
        for _ in range(4):
            holder, other = holders
            for address in ("10.0.0.100", "fd00:10::100"):
                result = ping(client, address, timeout=PATIENT)
                assert result.max is not None
                assert result.max < AT_ONCE
                names = client.run(["getent", "hosts", address], capture_output=True, text=True).stdout.split()[1:]
                assert names == [holder.name]
                holder.remove_address("eth0", address)
                assert not ping(client, address, timeout=0.01)
                other.add_address("eth0", f"{address}/{64 if ':' in address else 24}")
            holders = [other, holder]
        assert {"10.0.0.100/24", "fd00:10::100/64"} <= set(shown(first))

    def test_an_address_is_a_new_host_s(self, netns_lab: Lab) -> None:
        """Of one that has ended, that nobody had, or that was taken away: at the first packet, from each neighbour."""
        lan, wan = netns_lab.bridge("lan"), netns_lab.bridge("wan")
        client, server = netns_lab.host("client", lan), netns_lab.host("server", wan)
        given = {"ip": "10.0.0.77", "ip6": "fd00:10::77"}
        for address in given.values():
            assert not ping(client, address, timeout=0.01)
        router = netns_lab.router("r", lan, wan, **given)  # type: ignore[arg-type]
        reached(client, router)
        reached(client, server)
        netns_lab.remove(router)
        reached(client, netns_lab.router("r", lan, wan, **given))  # type: ignore[arg-type]
        reached(client, server)
        for address in given.values():
            netns_lab["r"].remove_address("eth0", address)
        netns_lab.connect(server, lan, **given)  # type: ignore[arg-type]
        for address in given.values():
            assert ping(client, address, timeout=PATIENT).max < AT_ONCE  # type: ignore[operator]

    def test_a_neighbour_that_was_written_down_stays(self, netns_lab: Lab) -> None:
        """Whoever comes with its address."""
        client = netns_lab.host("client", netns_lab.bridge("lan"))
        command = ["ip", "neigh", "add", "10.0.0.77", "lladdr", "02:00:00:00:00:77", "dev", "eth0"]
        client.run(command, check=True)
        netns_lab.host("other", netns_lab.bridges["lan"], ip="10.0.0.77")
        shown = client.run(["ip", "neigh"], capture_output=True, text=True).stdout
        assert "10.0.0.77 dev eth0 lladdr 02:00:00:00:00:77 PERMANENT" in shown

    def test_a_router_s_address_changes(self, netns_lab: Lab) -> None:
        """The routes of others lead over the one it has now; without any, over another router."""
        lan, wan = netns_lab.bridge("lan"), netns_lab.bridge("wan")
        client, server = netns_lab.host("client", lan), netns_lab.host("server", wan)
        main, spare = netns_lab.router("main", lan, wan), netns_lab.router("spare", lan, wan)
        reached(client, server)
        main.add_address("eth0", "10.0.0.254/24")
        main.remove_address("eth0", "10.0.0.2")
        assert gateway(client) == "10.0.0.254"
        reached(client, server)
        main.remove_address("eth0", "10.0.0.254")
        main.remove_address("eth1", str(main.ip))
        assert gateway(client) == str(spare.ip)
        reached(client, server)
        assert main.ip is None

    def test_on_an_interface_that_is_off(self, netns_lab: Lab) -> None:
        """It changes without waiting, and all is as planned when it is on again."""
        lan, wan = netns_lab.bridge("lan"), netns_lab.bridge("wan")
        client, server = netns_lab.host("client", lan), netns_lab.host("server", wan)
        router, spare = netns_lab.router("r", lan, wan), netns_lab.router("spare", lan, wan)
        reached(client, server)
        client["eth0"].down()
        client.remove_address("eth0", "10.0.0.1")
        client.add_address("eth0", "10.0.0.50/24")
        client["eth0"].set_mtu(1300)
        client.set_route("default", spare)
        client["eth0"].up()
        assert (client.ip, client["eth0"].state().mtu, gateway(client)) == ("10.0.0.50", 1300, spare.ip)
        reached(client, server)
        reached(router, client)


def gateway(host: Host) -> str:
    """Of its IPv4 default route, as the kernel has it."""
    words = host.run(["ip", "-4", "route", "show", "default"], capture_output=True, text=True).stdout.split()
    return words[2] if words else ""


class TestRoutes:
    def test_the_default_route_is_switched(self, netns_lab: Lab) -> None:
        """To the other router, to an address, to none, and it stays so whatever else the lab works out."""
        lan, wan = netns_lab.bridge("lan"), netns_lab.bridge("wan")
        client, server = netns_lab.host("client", lan), netns_lab.host("server", wan)
        main, spare = netns_lab.router("main", lan, wan), netns_lab.router("spare", lan, wan)
        reached(client, server)
        assert gateway(client) == main.ip
        client.set_route("default", spare)
        assert gateway(client) == spare.ip
        server.set_route("default", spare)
        main["eth0"].down()
        reached(client, server)
        client["eth0"].down()
        client["eth0"].up()
        netns_lab.host("late", wan)
        assert gateway(client) == spare.ip
        client.set_route("default", None)
        assert gateway(client) == ""
        assert not ping(client, server, timeout=0.01)
        client.set_route("0.0.0.0/0", "10.0.0.3")
        assert gateway(client) == "10.0.0.3"
        assert ping(client, server, timeout=PATIENT)
        assert not ping(client, str(server.ip6), timeout=0.01)

    def test_it_goes_with_what_it_leads_over(self, netns_lab: Lab) -> None:
        """Then the one that is worked out is there; a new bridge or host of the same name has nothing to do with it."""
        lan, wan = netns_lab.bridge("lan"), netns_lab.bridge("wan")
        client, server = netns_lab.host("client", lan, wan), netns_lab.host("server", netns_lab.bridge("far"))
        main, backup = (netns_lab.router(name, lan, netns_lab.bridges["far"]) for name in ("main", "backup"))
        client.set_route("default", backup)
        assert gateway(client) == backup.ip
        netns_lab.remove(backup)
        netns_lab.router("backup", wan, netns_lab.bridges["far"])
        assert gateway(client) == main.ip
        reached(client, server)
        client.set_route("default", "10.0.0.99")
        assert gateway(client) == "10.0.0.99"
        netns_lab.remove(lan)
        netns_lab.connect(client, netns_lab.bridge("lan", "192.168.5.0/24"))
        assert gateway(client) == netns_lab["backup"].ip
        reached(client, server)

    def test_whoever_comes_into_a_network_needs_no_route_to_it(self, netns_lab: Lab) -> None:
        """One that was given before leads there again when it is out of it."""
        lan, wan = netns_lab.bridge("lan"), netns_lab.bridge("wan")
        client, gate = netns_lab.host("client", lan), netns_lab.host("gate", lan, wan)
        server = netns_lab.host("server", wan)
        client.set_route("10.0.1.0/24", gate)
        netns_lab.connect(client, wan)
        command = ["ip", "-4", "route", "show", "10.0.1.0/24"]
        assert "dev eth1 proto kernel" in client.run(command, capture_output=True, text=True).stdout
        reached(client, server)
        client["eth1"].replug(lan)
        assert "via 10.0.0.2 dev eth0" in client.run(command, capture_output=True, text=True).stdout

    def test_a_network_by_way_of_a_host(self, netns_lab: Lab) -> None:
        """One that the plan does not know; None takes it away."""
        lan = netns_lab.bridge("lan")
        client, gate = netns_lab.host("client", lan), netns_lab.host("gate", lan)
        gate.add_address("lo", "192.0.2.1/32")
        assert not ping(client, "192.0.2.1", timeout=0.01)
        client.set_route("192.0.2.0/24", gate)
        assert ping(client, "192.0.2.1", timeout=PATIENT)
        client.set_route("192.0.2.0/24", None)
        assert not ping(client, "192.0.2.1", timeout=0.01)


def test_an_mtu_changes_on_both_ends(netns_lab: Lab) -> None:
    """Smaller, and larger than the bridge's; packets of that size pass, and none that is larger."""
    lan, wan = netns_lab.bridge("lan", mtu=9000), netns_lab.bridge("wan")
    client, server = netns_lab.host("client", lan), netns_lab.host("server", wan)
    router = netns_lab.router("r", lan, wan)
    router["eth1"].set_mtu(1300)
    assert wan.ports["veth-r"].mtu == router["eth1"].state().mtu == 1300
    assert "fragmentation needed" in repr(ping(client, server, size=1400, timeout=PATIENT))
    assert ping(client, server, size=1200, timeout=PATIENT)
    for host, port in ((router, wan["veth-r"]), (server, wan["veth-server"])):
        host["eth1" if host is router else "eth0"].set_mtu(4000)
        assert port.state().mtu == 4000
    wan[wan.name].set_mtu(4000)
    client.run(["ip", "route", "flush", "cache"], check=True)
    assert ping(client, server, size=3000, timeout=PATIENT)


CHANGES: dict[str, Callable[[Lab], Any]] = {
    "replug": lambda lab: lab["client"]["eth0"].replug(lab.bridges["wan"]),
    "remove_address": lambda lab: lab["main"].remove_address("eth0", "10.0.0.2"),
    "set_route": lambda lab: lab["client"].set_route("default", lab["spare"]),
    "set_mtu": lambda lab: lab["client"]["eth0"].set_mtu(1300),
}


def refused_change(change: Callable[[Lab], Any], lab: Lab) -> KernelError | None:
    try:
        change(lab)
    except KernelError as error:
        return error
    return None


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_is_refused_at_any_request_leaves_the_lab_as_it_was(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever it is: the error says so, the plan is the one before, and so is the network."""
    with Lab() as lab:
        lan, wan = lab.bridge("lan"), lab.bridge("wan")
        client, server = lab.host("client", lan), lab.host("server", wan)
        lab.router("main", lan, wan)
        lab.router("spare", lan, wan)
        reached(client, server)
        before, ways = str(lab), client.run(["ip", "route"], capture_output=True).stdout
        for number in range(1000):
            requests = _Requests(monkeypatch)
            requests.refuse_number(number)
            met = refused_change(CHANGES[change], lab)
            requests.allow()
            if met is None:
                assert number > 1
                break
            assert met.errno == errno.ENOMEM
            assert str(lab) == before
            assert client["eth0"].state().mtu == 1500
            assert client.run(["ip", "route"], capture_output=True).stdout == ways
            reached(client, server)
            reached(server, client)
        assert str(lab) != before or change == "set_route"


#: What programs do in a host of which the lab is not told.
MEDDLING = {
    "flapped": "ip link set eth0 down; ip link set eth0 up",
    "no default": "ip route del default",
    "another default": "ip route replace default via 10.0.0.3",
}


class TestRemoving:
    def places(self, lab: Lab, *, nat: bool = False) -> tuple[Host, Host]:
        lan, wan = lab.bridge("lan"), lab.bridge("wan")
        laptop, server = lab.host("laptop", lan), lab.host("server", wan)
        lab.router("home", lan, wan, nat=wan if nat else None)
        lab.router("backup", lan, wan)
        lab.build()
        return laptop, server

    @pytest.mark.parametrize("command", MEDDLING.values(), ids=list(MEDDLING))
    def test_what_a_program_has_taken_away_need_not_go(self, command: str, netns_lab: Lab) -> None:
        """A route that is not there any more, or is another one, holds up neither the end of a router nor a new one."""
        laptop, server = self.places(netns_lab)
        laptop.run(command, shell=True, check=True)
        netns_lab.remove(netns_lab["home"])
        assert gateway(laptop) == "10.0.0.3"
        reached(laptop, server)
        netns_lab.remove(netns_lab["backup"])
        laptop.run(["ip", "route", "replace", "default", "via", "10.0.0.77"], check=True)
        router = netns_lab.router("new", *netns_lab.bridges.values())
        assert gateway(laptop) == router.ip
        reached(laptop, netns_lab.host("late", netns_lab.bridges["wan"]))

    def test_an_interface_that_a_program_has_deleted(self, netns_lab: Lab) -> None:
        """Its host ends, and so does its bridge, as any other."""
        laptop, server = self.places(netns_lab)
        server.run(["ip", "link", "del", "eth0"], check=True)
        laptop.run(["ip", "link", "del", "eth0"], check=True)
        netns_lab.remove(laptop)
        netns_lab.remove(netns_lab.bridges["wan"])
        reached(netns_lab.host("laptop", netns_lab.bridges["lan"]), netns_lab["home"])

    @pytest.mark.parametrize(("name", "nat"), [("home", False), ("home", True), ("lan", False)])
    def test_a_refused_request_leaves_a_lab_that_goes_on(
        self, name: str, nat: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whichever it is: the error says so, what was to end has ended, and the next one may have its name."""
        if nat:
            program("nft")
        for number in range(1000):
            with Lab() as lab:
                laptop, server = self.places(lab, nat=nat)
                place = lab.bridges[name] if name in lab.bridges else lab[name]
                requests = _Requests(monkeypatch)
                requests.refuse_number(number)
                met = refused_change(lambda lab, place=place: lab.remove(place), lab)  # type: ignore[misc]
                requests.allow()
                assert place.closed
                if name == "lan":
                    assert own_interfaces(laptop) == {"lo"}
                    lan = lab.bridge("lan")
                    for host in (laptop, lab["home"]):
                        lab.connect(host, lan)
                else:
                    assert gateway(laptop) == lab["backup"].ip
                    lab.router("home", *lab.bridges.values())
                reached(laptop, server)
                reached(laptop, lab.host("late", lab.bridges["wan"]))
                if met is None:
                    assert number > 1
                    break
                assert met.errno == errno.ENOMEM

    def test_the_addresses_of_others_go_with_what_they_were_on(self, netns_lab: Lab) -> None:
        """A host has a first address as long as it is there: not that of a bridge or a link that has gone."""
        lan, wan = netns_lab.bridge("lan"), netns_lab.bridge("wan")
        host, other = netns_lab.host("host", lan, wan), netns_lab.host("other", wan)
        netns_lab.link(other, netns_lab.host("third"))
        netns_lab.build()
        netns_lab.remove(lan)
        assert (host.ip, host.ip6) == ("10.0.1.1", "fd00:10:0:1::1")
        reached(other, host)
        netns_lab.remove(wan)
        assert (host.ip, host.ip6, other.ip) == (None, None, "10.0.2.1")
        netns_lab.remove(netns_lab["third"])
        assert (other.ip, other.ip6) == (None, None)


class TestWithARouter:
    """What a host is told of a router, while its address goes and comes."""

    @pytest.fixture
    def places(self, netns_lab: Lab) -> tuple[Host, Host, Host]:
        lan, wan = netns_lab.bridge("lan", "192.168.1.0/24"), netns_lab.bridge("wan", "203.0.113.0/24")
        laptop, server = netns_lab.host("laptop", lan), netns_lab.host("server", wan)
        home = netns_lab.router("home", lan, wan)
        netns_lab.build()
        return laptop, server, home

    def test_without_an_address_there_is_no_route(self, netns_lab: Lab, places: tuple[Host, Host, Host]) -> None:
        """The kernel would refuse it; with an address that the test gives, it is there."""
        laptop, server, _ = places
        assert laptop.ip6 is not None
        laptop.remove_address("eth0", laptop.ip6)
        laptop["eth0"].replug(netns_lab.bridges["lan"], ip=None, ip6=None)
        assert not laptop.run(["ip", "route"], capture_output=True).stdout
        laptop.add_address("eth0", "192.168.1.77/24")
        assert ping(laptop, server)

    def test_the_routers_address_is_given_back(self, places: tuple[Host, Host, Host]) -> None:
        """Routes over it are the others' again, not only in the plan."""
        laptop, server, home = places
        address = next(each for each in home["eth0"].state().addresses if ":" not in each)
        home.remove_address("eth0", address)
        assert not ping(laptop, server.ip or "", timeout=0.2)
        home.add_address("eth0", address)
        assert ping(laptop, server.ip or "")

    def test_a_refused_router_is_taken_back(self, netns_lab: Lab, places: tuple[Host, Host, Host]) -> None:
        """Also what other hosts had been told of it, and its cables: asked for again, it can be made."""
        laptop, *_ = places
        watcher = netns_lab.host("watcher", netns_lab.bridges["lan"])
        before = watcher.run(["ip", "route"], capture_output=True).stdout
        laptop.run(["ip", "link", "set", "eth0", "down"], check=True)  # of which the lab does not know
        other = netns_lab.bridge("other")
        with pytest.raises(KernelError):
            netns_lab.router("second", netns_lab.bridges["lan"], other)
        assert watcher.run(["ip", "route"], capture_output=True).stdout == before
        laptop["eth0"].up()
        netns_lab.router("second", netns_lab.bridges["lan"], other)
        assert ping(laptop, netns_lab.host("far", other))


def test_who_is_switched_off_holds_up_nobody(netns_lab: Lab) -> None:
    """Routers come, translate no more, and go; whoever was off meanwhile has the routes of now once it is on."""
    lan, wan = netns_lab.bridge("lan", "192.168.1.0/24"), netns_lab.bridge("wan", "203.0.113.0/24")
    laptop, server = netns_lab.host("laptop", lan), netns_lab.host("server", wan)
    home = netns_lab.router("home", lan, wan)
    assert ping(laptop, server)
    laptop["eth0"].down()
    netns_lab.remove(home)
    assert ping(server, netns_lab.host("late", wan))
    laptop["eth0"].up()
    assert not ping(laptop, server.ip or "", timeout=0.2)
    server["eth0"].down()
    netns_lab.router("second", lan, wan)
    laptop["eth0"].down()
    for host in (laptop, server):
        host.run(["ip", "link", "set", "eth0", "up"], check=True)  # the lab is not told
    netns_lab.host("later", lan)
    for host in (laptop, server):
        host["eth0"].up()
    reached(laptop, server)


def test_an_address_of_two_stays_taken_while_one_has_it(netns_lab: Lab) -> None:
    """Whichever of them loses it, by a change or by its end."""
    lan = netns_lab.bridge("lan", "10.0.0.0/24")
    first, second, third = (netns_lab.host(name, lan) for name in ("first", "second", "third"))
    first.add_address("eth0", "10.0.0.9/24")
    second.add_address("eth0", "10.0.0.9/24")
    third.add_address("eth0", "10.0.0.9/24")
    first.remove_address("eth0", "10.0.0.9")
    netns_lab.remove(second)
    with pytest.raises(PlanError, match="third has this address"):
        netns_lab.host("late", lan, ip="10.0.0.9")


def test_hardware_addresses_are_not_given_twice(netns_lab: Lab) -> None:
    """Not even where an interface has gone with its bridge."""
    gone, stays = netns_lab.bridge("gone"), netns_lab.bridge("stays")
    host = netns_lab.host("host", gone, stays)
    netns_lab.remove(gone)
    netns_lab.connect(host, stays)
    macs = [state.mac for name, state in host.interfaces.items() if name.startswith("eth")]
    assert len(set(macs)) == len(macs) == 2
