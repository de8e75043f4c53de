"""What a plan works out and what it refuses, without a kernel: names, networks, addresses, MACs."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netns import PlanError
from pytest_netns._changing import remove
from pytest_netns._plan import AUTO, NOTHING, Plan, add_end, add_link, add_node, add_segment


def grown(*hosts: str, bridge: str = "lan", **networks: Any) -> Plan:
    """Hosts on one bridge."""
    plan = add_segment(NOTHING, bridge, **networks)
    for host in hosts:
        plan = add_end(add_node(plan, host), host, bridge)
    return plan


def test_a_plan_grows_and_stays_what_it_was() -> None:
    """Each step gives a plan of its own; earlier ones stay as they were."""
    first = grown("a")
    second = add_end(add_node(first, "b"), "b", "lan")
    third = remove(second, {"a"})
    assert [list(plan.nodes) for plan in (NOTHING, first, second, third)] == [[], ["a"], ["a", "b"], ["b"]]
    assert [len(plan.on_segment["lan"]) for plan in (first, second, third)] == [1, 2, 1]
    assert remove(third, {"b", "lan"}) is NOTHING


class TestNetworks:
    def test_each_segment_gets_a_network_of_its_own_in_both_families(self) -> None:
        """Automatic networks count up together, and pass over those that are in use."""
        plan = add_segment(NOTHING, "one")
        plan = add_segment(plan, "two", "10.0.1.0/25", None)
        plan = add_segment(plan, "three", subnet6="fd00:10:0:2:8000::/65")
        plan = add_segment(plan, "four")
        networks = [(str(each.subnet), str(each.subnet6)) for each in plan.segments.values()]
        assert networks == [
            ("10.0.0.0/24", "fd00:10::/64"),
            ("10.0.1.0/25", "None"),
            ("10.0.2.0/24", "fd00:10:0:2:8000::/65"),
            ("10.0.3.0/24", "fd00:10:0:3::/64"),
        ]

    def test_without_ipv6_in_the_kernel_there_is_none(self) -> None:
        """An automatic IPv6 network is left out where the kernel has no IPv6; one that was given stays."""
        plan = add_segment(NOTHING, "one", ipv6=False)
        assert plan.segments["one"].subnet6 is None
        plan = add_segment(plan, "two", subnet6="fd00:7::/64", ipv6=False)
        assert str(plan.segments["two"].subnet6) == "fd00:7::/64"

    def test_a_segment_may_have_no_network(self) -> None:
        """What a test of DHCP needs: hosts on a wire, without addresses."""
        plan = add_end(add_node(add_segment(NOTHING, "wire", None, None), "a"), "a", "wire")
        assert plan.ends[0].addresses == ()
        assert plan.ends[0].address(4) is plan.ends[0].address(6) is None

    def test_networks_that_were_given_may_overlap(self) -> None:
        """Two segments with the same network are what two homes behind routers have."""
        plan = add_segment(NOTHING, "left", "192.168.1.0/24", None)
        plan = add_segment(plan, "right", "192.168.1.0/24", None)
        for host, bridge in (("a", "left"), ("b", "right")):
            plan = add_end(add_node(plan, host), host, bridge)
        assert [end.addresses for end in plan.ends] == [("192.168.1.1/24",)] * 2

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ({"subnet": "10.0.0.0"}, "expected a network with its prefix length"),
            ({"subnet": "10.0.0.1/24"}, "has host bits set; the network is '10.0.0.0/24'"),
            ({"subnet": "fd00::/64"}, "is IPv6; expected IPv4.*the keyword for IPv6 is subnet6"),
            ({"subnet6": "10.0.0.0/8"}, "is IPv4; expected IPv6.*the keyword for IPv4 is subnet"),
            ({"subnet": "127.0.0.0/16"}, "overlaps 127.0.0.0/8"),
            ({"subnet": 7}, "subnet 7: expected"),
            ({"mtu": 1279}, "IPv6 needs 1280"),
            ({"mtu": 67, "subnet6": None}, "from 68 to 65535"),
            ({"mtu": True}, "mtu True"),
        ],
    )
    def test_what_cannot_be_a_segment_is_refused(self, words: dict[str, Any], message: str) -> None:
        """The message names the value and what was expected."""
        with pytest.raises(PlanError, match=message):
            add_segment(NOTHING, "lan", **words)


class TestNames:
    @pytest.mark.parametrize("name", ["sixteen-bytes-xy", "", "a/b", "lo", "all", "-a", 7])
    def test_what_cannot_be_a_bridge_is_refused(self, name: Any) -> None:
        """A bridge's name is an interface's, too."""
        with pytest.raises(PlanError, match="bridge"):
            add_segment(NOTHING, name)

    def test_names_are_given_once(self) -> None:
        """Hosts and bridges share one space of names: each has a namespace that may be shown by it."""
        plan = grown("a")
        again: Callable[[], Plan]
        for again in (
            lambda: add_node(plan, "a"),
            lambda: add_node(plan, "a", forwards=True),
            lambda: add_node(plan, "lan"),
            lambda: add_segment(plan, "lan"),
            lambda: add_segment(plan, "a"),
        ):
            with pytest.raises(PlanError, match=r"already|name of a host|bridge of this name"):
                again()

    def test_interfaces_are_counted(self) -> None:
        """eth0, eth1 …, passing over those that were named; a taken name is refused."""
        plan = add_node(NOTHING, "a")
        for number, name in enumerate([None, "eth2", None, None]):
            plan = add_segment(plan, f"b{number}")
            plan = add_end(plan, "a", f"b{number}", name=name)
        assert [end.name for end in plan.of_node["a"]] == ["eth0", "eth2", "eth1", "eth3"]
        with pytest.raises(PlanError, match="a has one of this name already"):
            add_end(plan, "a", "b0", name="eth1")

    def test_ports_are_named_for_their_hosts_where_that_fits(self) -> None:
        """``veth-HOST``; a number where that is too long or taken."""
        plan = grown("berlin", "rio-de-janeiro-centro", "2", bridge="veth-1")
        plan = add_end(plan, "berlin", "veth-1")
        ports = [end.port for end in plan.on_segment["veth-1"]]
        assert ports[0] == "veth-berlin"
        assert len(set(ports)) == 4
        assert all(len(port) <= 15 and port != "veth-1" for port in ports)

    def test_macs_tell_host_and_interface(self) -> None:
        """Automatic MACs are unicast, local, distinct, and count hosts and interfaces."""
        plan = grown("a", "b")
        plan = add_end(plan, "b", "lan")
        assert [end.mac for end in plan.ends] == ["02:00:00:00:01:00", "02:00:00:00:02:00", "02:00:00:00:02:01"]
        own = add_end(plan, "a", "lan", mac="02:AA:bb:00:00:01").ends[-1]
        assert own.mac == "02:aa:bb:00:00:01"
        assert own.port_mac not in {end.port_mac for end in plan.ends}
        for wrong in ("02:00:00:00:01", "01:00:00:00:00:01", "00:00:00:00:00:00", "0x:00:00:00:00:01", 7):
            with pytest.raises(PlanError, match=r"mac .*: expected six octets"):
                add_end(plan, "a", "lan", mac=wrong)  # type: ignore[arg-type]


class TestAddresses:
    def test_addresses_count_up_and_pass_over_those_that_were_given(self) -> None:
        """The next free address of each family; who asks for one gets it."""
        plan = grown("a")
        plan = add_end(add_node(plan, "b"), "b", "lan", ip="10.0.0.2", ip6="fd00:10::ff")
        plan = add_end(add_node(plan, "c"), "c", "lan")
        assert [end.addresses for end in plan.ends] == [
            ("10.0.0.1/24", "fd00:10::1/64"),
            ("10.0.0.2/24", "fd00:10::ff/64"),
            ("10.0.0.3/24", "fd00:10::2/64"),
        ]
        assert (plan.ends[1].address(4), plan.ends[1].address(6)) == ("10.0.0.2", "fd00:10::ff")

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ({"ip": "10.0.0.0"}, "expected an address of 10.0.0.0/24: 10.0.0.1 to 10.0.0.254"),
            ({"ip": "10.0.0.255"}, "10.0.0.1 to 10.0.0.254"),
            ({"ip": "10.0.1.1"}, "10.0.0.1 to 10.0.0.254"),
            ({"ip": "10.0.0.7/24"}, "without prefix length"),
            ({"ip": "fd00:10::7"}, "10.0.0.1 to 10.0.0.254"),
            ({"ip6": "fd00:10::"}, "fd00:10::1 to fd00:10::ffff:ffff:ffff:ffff"),
            ({"ip": "10.0.0.1"}, "a has this address on lan already"),
            ({"ip": 7}, "ip 7: expected"),
        ],
    )
    def test_what_cannot_be_an_address_is_refused(self, words: dict[str, Any], message: str) -> None:
        """The message names the value and what was expected."""
        with pytest.raises(PlanError, match=message):
            add_end(add_node(grown("a"), "b"), "b", "lan", **words)

    def test_an_address_needs_a_network_of_its_family(self) -> None:
        """A segment without IPv6 gives no IPv6 address."""
        plan = add_node(grown(subnet6=None), "b")
        assert add_end(plan, "b", "lan").ends[0].addresses == ("10.0.0.1/24",)
        with pytest.raises(PlanError, match="ip6 'fd00::1': lan has no IPv6 network"):
            add_end(plan, "b", "lan", ip6="fd00::1")

    def test_a_full_network_says_so(self) -> None:
        """When every address is taken, the next host is refused by name."""
        plan = grown("a", "b", subnet="10.0.0.0/31", subnet6=None)
        assert [end.addresses[0] for end in plan.ends] == ["10.0.0.0/31", "10.0.0.1/31"]
        with pytest.raises(PlanError, match=r"c finds no free address on lan: all of 10\.0\.0\.0/31 are taken"):
            add_end(add_node(plan, "c"), "c", "lan")

    def test_a_removed_host_s_address_can_be_given_again(self) -> None:
        """By name; automatic ones go on counting, so that nobody meets an old neighbour's entry."""
        plan = remove(grown("a", "b"), {"a"})
        assert add_end(add_node(plan, "c"), "c", "lan", ip="10.0.0.1").ends[-1].address(4) == "10.0.0.1"
        assert add_end(add_node(plan, "c"), "c", "lan").ends[-1].address(4) == "10.0.0.3"

    @settings(max_examples=100, deadline=None, database=None)
    @given(st.integers(8, 30), st.integers(1, 60), st.integers(0, 2**32 - 1))
    def test_addresses_are_in_their_network_and_distinct(self, length: int, count: int, base: int) -> None:
        """Whatever the network, each host gets an address of it that no other has, or is refused."""
        network = ipaddress.ip_network((10 << 24 | base >> 8 >> (32 - length) << (32 - length), length), strict=False)
        plan = add_segment(NOTHING, "lan", str(network), None)
        given_out: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
        for number in range(count):
            try:
                plan = add_end(add_node(plan, f"h{number}"), f"h{number}", "lan")
            except PlanError:
                assert len(given_out) == network.num_addresses - 2
                break
            given_out.append(ipaddress.ip_address(str(plan.ends[-1].address(4))))
        assert len(set(given_out)) == len(given_out)
        assert all(address in network for address in given_out)
        assert not {network.network_address, network.broadcast_address} & set(given_out)


def test_a_link_joins_two() -> None:
    """Two nodes may be joined more than once; none is joined to itself."""
    plan = add_node(add_node(NOTHING, "a"), "b")
    plan = add_link(plan, "a", "b")
    plan = add_link(plan, "a", "b", AUTO, None, mtu=9000)
    assert list(plan.segments) == ["a - b", "a - b 2"]
    assert [(end.node, end.name, end.port) for end in plan.ends] == [
        ("a", "eth0", ""),
        ("b", "eth0", ""),
        ("a", "eth1", ""),
        ("b", "eth1", ""),
    ]
    with pytest.raises(PlanError, match="a cannot be joined to itself"):
        add_link(plan, "a", "a")
    assert list(remove(plan, {"a"}).of_node["b"]) == []


def test_the_addresses_of_a_link_are_free_when_it_is_gone() -> None:
    """As often as one of its nodes is removed and comes again."""
    plan = add_node(NOTHING, "a")
    for _ in range(5):
        plan = add_link(add_node(plan, "b"), "a", "b", "10.9.0.0/30", None)
        assert [end.addresses for end in plan.ends] == [("10.9.0.1/30",), ("10.9.0.2/30",)]
        plan = remove(plan, {"b"})
