"""What cannot work is refused before anything is made, and what can is taken; hardly any of it needs a kernel."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_netns import Lab, Nat, PlanError, ping
from pytest_netns._changing import fix_route, give_address, parse_address, replug, take_address
from pytest_netns._nat import set_forward, set_nat
from pytest_netns._plan import NOTHING, Plan, add_end, add_link, add_node, add_segment
from pytest_netns._reading import plan_from
from pytest_netns._routing import Route, routes
from pytest_netns._wireguard import check_key


def street(**more: Any) -> Plan:
    """A laptop, a router, a server."""
    return plan_from(
        {
            "bridges": {"lan": {"subnet": "192.168.1.0/24"}, "wan": {"subnet": "203.0.113.0/24"}},
            "hosts": {"laptop": {"bridges": ["lan"]}, "server": {"bridges": ["wan"]}},
            "routers": {"home": {"bridges": ["lan", "wan"]}},
            **more,
        }
    )


class TestRoutes:
    @pytest.mark.parametrize(
        ("to", "version", "destination"),
        [
            ("203.0.113.1/32", 4, "203.0.113.1/32"),
            ("203.0.113.1", 4, "203.0.113.1/32"),
            ("fd00:10:0:1::1/128", 6, "fd00:10:0:1::1/128"),
            ("224.0.0.0/4", 4, "224.0.0.0/4"),
            ("0.0.0.0/0", 4, None),
        ],
    )
    def test_lead_to_one_host_or_to_groups(self, to: str, version: int, destination: str | None) -> None:
        """Not only to networks that hosts could be in."""
        plan = fix_route(street(), "laptop", to, "home")
        assert list(plan.fixed) == [("laptop", version, destination)]
        assert (version, destination) in [route[:2] for route in routes(plan)["laptop"]]

    @pytest.mark.parametrize(
        ("to", "message"),
        [
            ("10.0.0.1/8", "has host bits set; the network is '10.0.0.0/8'"),
            ("fd00::%eth0/64", "expected 'default' or a network"),
            (7, "route to 7: expected 'default'"),
        ],
    )
    def test_lead_nowhere_else(self, to: Any, message: str) -> None:
        """The value, and what was expected."""
        with pytest.raises(PlanError, match=message):
            fix_route(street(), "laptop", to, "home")

    def test_count_the_address_in_the_segment_s_network(self) -> None:
        """Whichever came first: an alias of another network in front of it changes nothing."""
        plan = street()
        before = routes(plan)
        own = plan.of_node["home"][0].addresses[0]
        plan = give_address(plan, "home", "eth0", "172.16.0.1/24")
        plan = take_address(plan, "home", "eth0", own)
        assert all(route.version == 6 for route in routes(plan)["laptop"])
        plan = give_address(plan, "home", "eth0", own)
        assert plan.of_node["home"][0].address(4) == "172.16.0.1"
        assert routes(plan) == before
        fixed = fix_route(plan, "laptop", "198.51.100.0/24", "home")
        assert Route(4, "198.51.100.0/24", own.split("/")[0], "lan") in routes(fixed)["laptop"]

    def test_are_none_where_the_kernel_could_not_send(self) -> None:
        """From a host whose only address is of another network, also where a user has said one."""
        plan = fix_route(street(), "laptop", "198.51.100.0/24", "home")
        plan = take_address(plan, "laptop", "eth0", "192.168.1.1")
        plan = give_address(plan, "laptop", "eth0", "172.16.0.5/24")
        assert all(route.version == 6 for route in routes(plan)["laptop"])


class TestNetworks:
    def test_a_link_takes_the_smallest(self) -> None:
        """Both addresses of a /31 and of a /127 are for routers."""
        plan = add_link(add_node(add_node(NOTHING, "a"), "b"), "a", "b", "10.0.0.0/31", "fd01::/127")
        assert [end.addresses for end in plan.ends] == [("10.0.0.0/31", "fd01::/127"), ("10.0.0.1/31", "fd01::1/127")]

    @pytest.mark.parametrize(
        ("word", "network", "smallest"), [("subnet", "10.0.0.1/32", "/31"), ("subnet6", "fd01::/128", "/127")]
    )
    def test_no_room_is_said_of_what(self, word: str, network: str, smallest: str) -> None:
        """A bridge or a link, by name."""
        with pytest.raises(PlanError, match=f"of bridge 'lan' has no room for two hosts; the smallest is a {smallest}"):
            add_segment(NOTHING, "lan", **{word: network})  # type: ignore[arg-type]
        plan = add_node(add_node(NOTHING, "a"), "b")
        with pytest.raises(PlanError, match="of link 'a - b' has no room"):
            add_link(plan, "a", "b", **{word: network})

    def test_a_full_one_says_how_many_it_holds(self) -> None:
        """And what helps: ``ip=`` only where an address was free again."""
        plan = add_segment(NOTHING, "lan", "10.0.0.0/30", None)
        for name in "ab":
            plan = add_end(add_node(plan, name), name, "lan")
        with pytest.raises(PlanError, match=r"c finds .* it holds 2 hosts; take a larger subnet= for lan"):
            add_end(add_node(plan, "c"), "c", "lan")


class TestAddresses:
    def test_belong_to_no_interface(self) -> None:
        """``%eth0`` is of link-local ones, which the plan does not give."""
        plan = add_node(street(), "late")
        with pytest.raises(PlanError, match="without prefix length and interface"):
            add_end(plan, "late", "lan", ip6="fd00:10::5%eth0")
        with pytest.raises(PlanError, match="expected one with its prefix length"):
            parse_address("fd00:10::5%eth0/64")

    def test_are_given_once_and_taken_in_any_spelling(self) -> None:
        """An IPv6 address, whatever its prefix length; an IPv4 address with another one is another for Linux."""
        plan = street()
        for address in ("192.168.1.1/24", "fd00:10::1/64", "fd00:10::1/48"):
            with pytest.raises(PlanError, match=f"'{address}': eth0 of laptop has it already; it has 192"):
                give_address(plan, "laptop", "eth0", address)
        assert give_address(plan, "laptop", "eth0", "192.168.1.1/16").of_node["laptop"][0].addresses[-1].endswith("/16")
        for spelt in ("fd00:0010::1", "FD00:10:0::1/64"):
            assert take_address(plan, "laptop", "eth0", spelt).of_node["laptop"][0].addresses == ("192.168.1.1/24",)


class TestNames:
    @pytest.mark.parametrize("name", ["localhost", "LocalHost", "10.0.0.1", "0.0.0.0"])
    def test_that_mean_something_else_are_refused(self, name: str) -> None:
        """To every program: itself, or an address. What only looks like one is a name."""
        with pytest.raises(PlanError, match=f"host name '{name}': "):
            add_node(NOTHING, name)
        assert list(add_node(add_node(NOTHING, "10"), "fe80").nodes) == ["10", "fe80"]

    def test_are_told_apart_without_case(self) -> None:
        """As resolvers do."""
        with pytest.raises(PlanError, match=r"'LAPTOP': there is 'laptop', which is the same to a resolver"):
            add_node(street(), "LAPTOP")


class TestOverlaps:
    @pytest.mark.parametrize(
        ("one", "two"),
        [(("10.0.0.0/24", None), ("10.0.0.0/25", None)), ((None, "fd00:1::/64"), (None, "fd00:1::/64"))],
    )
    def test_no_router_is_between_networks_that_overlap(self, one: tuple[Any, Any], two: tuple[Any, Any]) -> None:
        """Neither from the start nor by a cable; a router whose routes others make may be."""
        plan = add_segment(add_segment(add_segment(NOTHING, "one", *one), "two", *two), "far", "192.0.2.0/24", None)
        with pytest.raises(PlanError, match=r"r cannot be on one .* and two .*, which overlap.*routes=False"):
            add_end(add_end(add_node(plan, "r", forwards=True), "r", "one"), "r", "two")
        there = add_end(add_end(add_node(plan, "r", forwards=True), "r", "one"), "r", "far")
        with pytest.raises(PlanError, match=r"r cannot be on one"):
            replug(there, "r", "eth1", "two", ip="auto", ip6="auto")
        assert replug(there, "r", "eth0", "two", ip="auto", ip6="auto").on_segment["one"] == ()  # it roams
        for free in (add_node(plan, "r"), add_node(plan, "r", forwards=True, routed=False)):  # for VRFs
            assert len(routes(add_end(add_end(free, "r", "one"), "r", "two"))) == 0

    def test_one_of_two_equal_networks_cannot_be_meant(self) -> None:
        """Two homes may have the same as long as both hide it."""
        networks = {"subnet": "192.168.1.0/24", "subnet6": False}
        plan = plan_from(
            {
                "bridges": {"one": networks, "two": networks, "wan": {"subnet6": False}},
                "hosts": {"server": {"bridges": ["wan"]}},
                "routers": {f"home-{on}": {"bridges": [on, "wan"], "nat": "wan"} for on in ("one", "two")},
            }
        )
        routes(plan)
        open_one = set_nat(plan, "home-one", None)
        message = r"server would have two ways to 192.168.1.0/24: to one by home-one, to two by home-two"
        with pytest.raises(PlanError, match=message):
            routes(set_nat(open_one, "home-two", None))


class TestHardwareAddresses:
    def test_automatic_ones_keep_clear_of_given_ones(self) -> None:
        """On every segment, since cables move."""
        plan = add_segment(add_segment(NOTHING, "lan"), "wan")
        plan = add_end(add_node(plan, "a"), "a", "lan", mac="02:00:00:00:02:00")
        plan = add_end(add_node(plan, "b"), "b", "wan")
        plan = replug(plan, "b", "eth0", "lan", ip="auto", ip6="auto")
        assert len({mac for end in plan.ends for mac in (end.mac, end.port_mac)}) == 4

    def test_given_ones_are_on_a_segment_once(self) -> None:
        """Whether a host has them or the bridge's port; and also by a cable."""
        plan = add_segment(add_segment(NOTHING, "lan"), "wan")
        plan = add_end(add_node(plan, "a"), "a", "lan")
        plan = add_node(plan, "b")
        for mac in (plan.ends[0].mac.upper(), plan.ends[0].port_mac):
            with pytest.raises(PlanError, match=f"mac '{mac.lower()}': eth0 of a, or its port, has this .* on lan"):
                add_end(plan, "b", "lan", mac=mac)
        plan = add_end(plan, "b", "wan", mac=plan.ends[0].mac)
        with pytest.raises(PlanError, match="eth0 of b has the hardware address 02:00:00:00:01:00: eth0 of a"):
            replug(plan, "b", "eth0", "lan", ip="auto", ip6="auto")


class TestNat:
    def test_a_kind_alone_is_no_outside(self) -> None:
        """What was meant is shown."""
        with pytest.raises(PlanError, match=r"'symmetric' is a kind; .*: Nat\(BRIDGE, 'symmetric'\)"):
            set_nat(street(), "home", Nat("symmetric"))

    def test_no_port_leads_outside(self) -> None:
        """Where everybody is reached without; a server of the router's own stays."""
        plan = set_nat(street(), "home", Nat("wan"))
        with pytest.raises(PlanError, match="server is only on wan, outside of home: expected a host inside"):
            set_forward(plan, "home", 80, "server")
        assert len(set_forward(plan, "home", 80, "home").nodes["home"].port_forwards) == 1


def test_a_bridge_is_not_among_the_hosts() -> None:
    """The message says where it is."""
    with Lab() as lab:
        lab.bridge("backup")
        with pytest.raises(KeyError, match=r"that is a bridge: lab.bridges\['backup'\]"):
            lab["backup"]
        with pytest.raises(PlanError, match=r"'backup': expected a bridge .*: lab.bridges\['backup'\]"):
            lab.host("a", "backup")  # type: ignore[arg-type]
        with pytest.raises(PlanError, match=r"such as lab.bridge"):
            lab.host("a", ["backup"])  # type: ignore[arg-type]


def test_who_has_no_planned_address_is_pinged_by_text() -> None:
    """A phone that has got one by DHCP, say: the plan does not know it, and the message tells."""
    with Lab() as lab:
        wire = lab.bridge("wire", None, None)
        laptop, phone = lab.host("laptop", wire), lab.host("phone", wire)
        with pytest.raises(ValueError, match=r"phone has none that .* DHCP .*: ping\(source, 'ADDRESS'\)"):
            ping(laptop, phone)


def test_a_key_is_ascii() -> None:
    """Letters that are none are refused like any other mistake."""
    with pytest.raises(PlanError, match="expected 32 bytes in base64"):
        check_key("private_key", "é" * 44)


@pytest.mark.kernel
def test_a_planned_interface_is_not_adopted(netns_lab: Lab) -> None:
    """Its cable is in the plan; it stays where it was, and works."""
    lan = netns_lab.bridge("lan")
    one, other = netns_lab.host("one", lan), netns_lab.host("other")
    with pytest.raises(PlanError, match="eth0 is part of its lab's plan and stays with its host"):
        other.adopt(one["eth0"])
    assert "eth0" in one.interfaces
    late = netns_lab.host("late", lan)
    assert late.run(["ip", "route", "get", str(one.ip)]).returncode == 0
